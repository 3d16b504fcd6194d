"""Requests to an endpoint by the client of `openai`, with an error message that says what to do.

The client sends a request again after status 408, 409, 429 and 5xx, a timeout, a broken connection, or an answer that
is not a JSON object. It waits as long as the Retry-After header says, up to two minutes, or doubles the delay. Other
failed requests are not sent again. An endpoint that is unavailable, or that refuses every request (API key, model
name), raises `EndpointUnavailableError`. It ends a run instead of failing each of its samples.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event, Lock
from typing import Any

from icl import ModelError, httpx2, openai

PROBE_TIMEOUT_SECONDS = 10.0
"""Time limit of a request that asks a server what it is."""

GATEWAY_STATUSES = (502, 503, 504)
"""Responses of a gateway while its server is down."""


class EndpointUnavailableError(ModelError):
    """No request will succeed until something changes. Requests without an answer are left for the next run."""


@dataclass(eq=False)
class Endpoint:
    """JSON over HTTP to one address, for many threads at once.

    Attributes:
        url: Base address of the API.
        key: API key, sent as a bearer token. It never appears in a message.
        key_env: Environment variable that holds the key.
        timeout: Seconds without a byte after which an attempt ends.
        retries: Attempts after the first.
        backoff: Seconds before the second attempt; doubled for each further one.
        connections: Maximum number of simultaneous connections.
        stopped: Set to end waits between attempts.
        retry_count: Number of retries so far.
    """

    url: str
    key: str | None = field(repr=False)
    key_env: str | None
    timeout: float
    retries: int
    backoff: float
    connections: int
    stopped: Event = field(default_factory=Event)
    retry_count: int = 0
    _lock: Lock = field(default_factory=Lock)

    @cached_property
    def client(self) -> "openai.OpenAI":
        """The client of `openai`. Its waits between attempts end when `stopped` is set. Raises ModelError.

        It ignores the variables OPENAI_API_KEY, OPENAI_ORG_ID and OPENAI_PROJECT_ID, and follows no redirect.
        """
        endpoint = self

        class Client(openai.OpenAI):  # no public hook ends its waits, or sets their length
            def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
                headers = None if response is None else response.headers
                delay = self._calculate_retry_timeout(max_retries - retries_taken, options, headers)
                if self._parse_retry_after_header(headers) is None:
                    delay *= 2 * endpoint.backoff  # the client's own delays begin with half a second
                if endpoint.stopped.wait(delay):
                    raise openai.OpenAIError("stopped")
                with endpoint._lock:
                    endpoint.retry_count += 1

        try:
            return Client(
                api_key=self.key or "none",
                base_url=self.url,
                timeout=self.timeout,
                max_retries=self.retries,
                http_client=httpx2.Client(
                    limits=httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections),
                    event_hooks={"response": [_check_json]},
                ),
            )
        except httpx2.InvalidURL as error:
            raise ModelError(f"model.url: {self.url} is not an address: {error}.") from error

    @property
    def _options(self) -> Any:
        omitted = ("OpenAI-Organization", "OpenAI-Project", *(() if self.key else ("Authorization",)))
        return {"headers": {"Content-Type": "application/json"} | {name: openai.Omit() for name in omitted}}

    def close(self) -> None:
        if "client" in vars(self):
            vars(self).pop("client").close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send JSON and return the JSON object of the response.

        Raises:
            EndpointUnavailableError: The endpoint is unavailable or refuses every request.
            ModelError: This request fails.
        """
        content = json.dumps(body).encode()
        try:
            response = self.client.post(path, cast_to=httpx2.Response, content=content, options=self._options)
        except openai.OpenAIError as error:
            raise self._error(error) from error
        if response.status_code != 200:
            reason = f"status {response.status_code}: {response.reason_phrase}"
            raise ModelError(self._message(f"the answer has no choices: {reason}"))
        return dict(json.loads(response.content))

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path, without retries.

        Raises:
            EndpointUnavailableError: The server is not ready, as `icl serve` while it loads its model.
            ModelError: There is no JSON object.
        """
        client = self.client.with_options(max_retries=0, timeout=min(self.timeout, PROBE_TIMEOUT_SECONDS))
        try:
            return dict(json.loads(client.get(path, cast_to=httpx2.Response, options=self._options).content))
        except openai.APIStatusError as error:
            if error.status_code == 503:
                reason = f"the server is not ready (status 503: {_reason(error)})"
                raise EndpointUnavailableError(self._message(reason)) from error
            raise ModelError(self._message(f"{path}: status {error.status_code}")) from error
        except (openai.OpenAIError, ValueError) as error:
            raise ModelError(self._message(f"{path}: {error.__cause__ or error}")) from error

    def mask_key(self, text: str) -> str:
        """Text of the endpoint without the key, which it may repeat."""
        return text.replace(self.key, "***") if self.key else text

    def _error(self, error: "openai.OpenAIError") -> ModelError:
        """The error that stands for an error of the client."""
        cause = error.__cause__
        kind: type[ModelError] = EndpointUnavailableError
        if isinstance(error, openai.APIStatusError):
            return self._status_error(error)
        if not isinstance(error, openai.APIConnectionError):
            return kind("stopped.")
        if isinstance(cause, httpx2.ConnectTimeout):
            reason = f"no connection within {self.timeout:g} s"
        elif isinstance(error, openai.APITimeoutError):
            reason, kind = f"no answer within {self.timeout:g} s (model.timeout)", ModelError
        elif isinstance(cause, httpx2.DecodingError):
            reason, kind = str(cause), ModelError
        else:
            reason = f"the connection failed: {_without_period(str(cause) or type(cause).__name__)}"
        return kind(self._message(f"{reason} ({_tries(error.request)})"))

    def _status_error(self, error: "openai.APIStatusError") -> ModelError:
        """The error that a status other than 2xx means, after the last attempt."""
        response, status = error.response, error.status_code
        kind: type[ModelError] = EndpointUnavailableError
        message = f"status {status}: {_reason(error)}"
        if error.code == "insufficient_quota":
            pass
        elif status in (408, 409, 429) or status >= 500:
            delay = self.client._parse_retry_after_header(response.headers)
            if delay is not None and not self.client._should_retry(response):
                message += f". It asks to wait for {delay:,.0f} s"
            else:
                kind = EndpointUnavailableError if status in GATEWAY_STATUSES else ModelError
                message += f" ({_tries(response.request)})"
        elif status in (401, 403):
            source = f"the environment variable {self.key_env}" if self.key_env else "model.key_env, which is not set"
            message = f"it rejects the key ({message}). The key comes from {source}"
        elif status == 404:
            message += ". Is model.url the address up to /v1, and model.model a name that it serves?"
        elif status < 400:
            target = response.headers.get("Location", "another address")
            message = (
                f"it redirects to {target}, and the API key is not sent to a redirect target. Set model.url to the "
                "final address"
            )
        else:
            kind, message = ModelError, f"the server rejected the request: {message}"
        return kind(self._message(message))

    def _message(self, reason: str) -> str:
        return self.mask_key(f"{self.url}: {reason if reason.endswith('?') else f'{_without_period(reason)}.'}")


def _check_json(response: "httpx2.Response") -> None:
    """Read a response. The client sends a request again if its answer is not a JSON object.

    The charset of the header is ignored, since it may be anything.
    """
    try:
        response.read()
    except httpx2.DecodingError as error:
        raise httpx2.DecodingError(f"the answer cannot be decompressed: {error}", request=response.request) from error
    response.headers.pop("Content-Type", None)
    if response.status_code == 200:
        try:
            kind = "" if isinstance(json.loads(response.content), dict) else "a JSON object"
        except (ValueError, RecursionError):
            kind = "JSON"
        if kind:
            text = _shorten(response.content.decode("utf-8", "replace"))
            raise httpx2.DecodingError(f"the answer is not {kind} ({text!r})", request=response.request)


def _reason(error: "openai.APIStatusError") -> str:
    """The message in the body of an error response, which may have any shape."""
    body = error.body
    text = (body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body
    return _without_period(_shorten(str(text or error.response.reason_phrase)))


def _tries(request: Any) -> str:
    """'after 3 tries', from the header in which the client counts them."""
    count = 1 + int(request.headers.get("x-stainless-retry-count", 0))
    return f"after {count} {'try' if count == 1 else 'tries'}"


def _without_period(text: object) -> str:
    return str(text).rstrip(".")


def _shorten(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
