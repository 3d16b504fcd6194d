"""Requests to an HTTP endpoint, with retries where they may help and an error message where they do not.

Retried, after a delay that doubles or that the Retry-After header sets: status 408, 429 and 5xx, timeouts, broken
connections, and responses that are not JSON. Everything else that is wrong with one request is not retried. An endpoint
that is unavailable, or that refuses every request (API key, model name), raises `EndpointUnavailableError`. It ends a
run instead of failing each of its samples.
"""

import email.utils
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError

if TYPE_CHECKING:
    from httpx import Response

    from icl.models.http_client import DeadlineClient

MAX_BACKOFF_SECONDS = 60.0
"""Longest delay between two attempts, unless the endpoint asks for a longer one."""

MAX_RETRY_AFTER_SECONDS = 600.0
"""Longest delay that an endpoint may ask for."""

PROBE_TIMEOUT_SECONDS = 10.0
"""Time limit of a request that asks a server what it is."""

GATEWAY_STATUSES = (502, 503, 504)
"""Responses of a gateway whose server is down."""


class EndpointUnavailableError(ModelError):
    """No request will succeed until something changes. Requests without an answer are left for the next run."""


class _RetryableError(Exception):
    """A failure that a retry may overcome.

    Attributes:
        delay: Seconds that the endpoint asks to wait, or None.
        is_unavailable: Whether the endpoint could not be reached at all.
    """

    def __init__(self, reason: str, delay: float | None = None, is_unavailable: bool = False) -> None:
        super().__init__(reason)
        self.delay, self.is_unavailable = delay, is_unavailable


@dataclass(eq=False)
class Endpoint:
    """JSON over HTTP to one address, for many threads at once.

    Attributes:
        url: Base address of the API.
        key: API key, sent as a bearer token. It never appears in a message.
        key_env: Environment variable that holds the key.
        timeout: Seconds for one complete response.
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
    _client: "DeadlineClient | None" = None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send JSON and return the JSON object of the response.

        Raises:
            EndpointUnavailableError: The endpoint is unavailable or refuses every request.
            ModelError: This request fails.
        """
        content = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                return self._post_once(path, content)
            except _RetryableError as error:
                attempts = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
                delay = self._delay(error, attempt, content)
                if delay > MAX_RETRY_AFTER_SECONDS:
                    message = f"{_without_period(error)}. It asks to wait for {delay:,.0f} s"
                    raise EndpointUnavailableError(self._message(message)) from error
                if attempt == self.retries or self.stopped.wait(delay):
                    kind = EndpointUnavailableError if error.is_unavailable else ModelError
                    raise kind(self._message(f"{_without_period(error)} (after {attempts})")) from error
                with self._lock:
                    self.retry_count += 1
        raise AssertionError("unreachable")

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path, without retries.

        Raises:
            EndpointUnavailableError: The server is not ready, as `icl serve` while it loads its model.
            ModelError: There is no JSON object.
        """
        import httpx

        from icl.models.http_client import ResponseTooLargeError

        try:
            response = self._request("GET", path, min(self.timeout, PROBE_TIMEOUT_SECONDS))
            content = _json(response) if response.status_code == 200 else None
        except (httpx.RequestError, httpx.InvalidURL, ResponseTooLargeError, ValueError) as error:
            raise ModelError(self._message(f"{path}: {error or type(error).__name__}")) from error
        if response.status_code == 503:
            reason = _without_period(_error_reason(response)[0])
            raise EndpointUnavailableError(self._message(f"the server is not ready (status 503: {reason})"))
        if not isinstance(content, dict):
            raise ModelError(self._message(f"{path}: status {response.status_code}"))
        return content

    def mask_key(self, text: str) -> str:
        """Text of the endpoint without the key, which it may repeat."""
        return text.replace(self.key, "***") if self.key else text

    def _delay(self, error: _RetryableError, attempt: int, content: bytes) -> float:
        """Seconds before the next attempt.

        Jitter between half and all of the doubled backoff keeps requests that failed together from returning together.
        """
        if error.delay is not None:
            return error.delay
        jitter = int.from_bytes(hashlib.sha256(content + bytes([attempt % 256])).digest()[:4]) / 2**32
        return min(self.backoff * 2.0**attempt, MAX_BACKOFF_SECONDS) * (0.5 + 0.5 * jitter)

    def _post_once(self, path: str, content: bytes) -> dict[str, Any]:
        import httpx

        from icl.models.http_client import ResponseTooLargeError

        try:
            response = self._request("POST", path, self.timeout, content)
        except httpx.ConnectTimeout as error:
            raise _RetryableError(f"no connection within {self.timeout:g} s.", is_unavailable=True) from error
        except httpx.TimeoutException as error:
            raise _RetryableError(f"no answer within {self.timeout:g} s (model.timeout).") from error
        except httpx.DecodingError as error:
            raise _RetryableError(f"the answer cannot be decompressed: {error}.") from error
        except httpx.TransportError as error:
            reason = f"the connection failed: {error or type(error).__name__}."
            raise _RetryableError(reason, is_unavailable=True) from error
        except httpx.InvalidURL as error:
            raise EndpointUnavailableError(f"model.url: {self.url} is not an address: {error}.") from error
        except ResponseTooLargeError as error:
            raise ModelError(self._message(str(error))) from error
        if response.status_code != 200:
            self._raise_for_status(response)
        try:
            data = _json(response)
        except ValueError as error:
            raise _RetryableError(f"the answer is not JSON ({_shorten(_text(response))!r}).") from error
        if not isinstance(data, dict):
            raise _RetryableError(f"the answer is not a JSON object ({_shorten(_text(response))!r}).")
        return data

    def _request(self, method: str, path: str, seconds: float, content: bytes | None = None) -> "Response":
        with self._lock:
            if self._client is None:
                from icl.models.http_client import DeadlineClient

                headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
                self._client = DeadlineClient(headers, self.connections)
            client = self._client
        return client.request(method, self.url + path, seconds, content)

    def _raise_for_status(self, response: "Response") -> None:
        """Raise the error that a status other than 200 means."""
        status, (reason, code) = response.status_code, _error_reason(response)
        message = f"status {status}: {reason.rstrip('.')}"
        if code == "insufficient_quota":
            raise EndpointUnavailableError(self._message(message))
        if status in (408, 429) or status >= 500:
            delay = _retry_after(response.headers.get("Retry-After"))
            raise _RetryableError(message, delay, is_unavailable=status in GATEWAY_STATUSES)
        if status in (401, 403):
            source = f"the environment variable {self.key_env}" if self.key_env else "model.key_env, which is not set"
            raise EndpointUnavailableError(
                self._message(f"it rejects the key ({message}). The key comes from {source}")
            )
        if status == 404:
            raise EndpointUnavailableError(
                self._message(f"{message}. Is model.url the address up to /v1, and model.model a name that it serves?")
            )
        if status < 300:
            raise ModelError(self._message(f"the answer has no choices: {message}"))
        if status < 400:
            target = response.headers.get("Location", "another address")
            raise EndpointUnavailableError(
                self._message(
                    f"it redirects to {target}, and the API key is not sent to a redirect target. Set model.url "
                    "to the final address"
                )
            )
        raise ModelError(self._message(f"the server rejected the request: {message}"))

    def _message(self, reason: str) -> str:
        return self.mask_key(f"{self.url}: {reason if reason.endswith('?') else f'{_without_period(reason)}.'}")


def _error_reason(response: "Response") -> tuple[str, str]:
    """Message and code in the body of an error response, which may have any shape."""
    try:
        data = _json(response)
    except ValueError:
        return _shorten(_text(response)) or response.reason_phrase, ""
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return _shorten(str(error)), ""
    return _shorten(str(error.get("message") or error.get("detail") or error)), str(error.get("code", ""))


def _json(response: "Response") -> Any:
    """Raises ValueError."""
    try:
        return json.loads(response.content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _text(response: "Response") -> str:
    """The body as UTF-8. The charset of the header is ignored, since it may be anything."""
    return response.content.decode("utf-8", "replace")


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _without_period(text: object) -> str:
    return str(text).rstrip(".")


def _shorten(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
