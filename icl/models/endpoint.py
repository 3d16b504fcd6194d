"""Requests to an HTTP endpoint: tried again where that may help, and a sentence where it does not.

Tried again, after a wait that doubles (or that the endpoint names by Retry-After): 408, 429, 5xx, time-outs, broken
connections, answers that are not JSON. Not tried again: everything else that is wrong with one request. An endpoint
that has gone, or that refuses every request (the key, the model's name), is a `EndpointUnavailableError`, which ends a run instead of
failing each of its samples.
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
    from httpx import Client, Response

    from icl.models.deadline import Clock

LONGEST = 60.0
"""Seconds that a doubled wait ends at."""

PATIENCE = 600.0
"""Seconds that an endpoint may ask to be waited for."""

ASKED = 10.0
"""Seconds that a server has to say what it is."""

MOST_BYTES = 64 * 2**20
"""Of an answer, unpacked: more is no answer to a question, and memory has an end."""

QUIET = (502, 503, 504)
"""What a gateway says of a server that is not there."""


class EndpointUnavailableError(ModelError):
    """No request will be answered until something changes: what is missing is left for the next call."""


class _AgainError(Exception):
    """Worth another try. wait: seconds that the endpoint names; gone: whether it is not there at all."""

    def __init__(self, why: str, wait: float | None = None, gone: bool = False) -> None:
        super().__init__(why)
        self.wait, self.gone = wait, gone


@dataclass(eq=False)
class Endpoint:
    """url: of the API. key: sent as a bearer token, in no message. Used by many threads at once."""

    url: str
    key: str | None = field(repr=False)
    key_env: str | None
    timeout: float
    retries: int
    backoff: float
    connections: int
    stopped: Event = field(default_factory=Event)
    retried: int = 0
    _lock: Lock = field(default_factory=Lock)
    _made: "tuple[Client, Clock] | None" = None

    def _client(self) -> "tuple[Client, Clock]":
        import httpx

        from icl.models.deadline import Clock, Timed

        with self._lock:
            if self._made is None:
                headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
                limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
                clock = Clock()
                client = httpx.Client(headers=headers, timeout=self.timeout, transport=Timed(clock, limits))
                self._made = client, clock
            return self._made

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made[0].close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer's JSON object. Raises EndpointUnavailableError, or ModelError where this one request is not answered."""
        sent = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                return self._once(path, sent)
            except _AgainError as error:
                tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
                wait = self._wait(error, attempt, sent)
                if wait > PATIENCE:
                    asks = f"It asks to be left alone for {wait:,.0f} s"
                    raise EndpointUnavailableError(self._told(f"{_bare(error)}. {asks}")) from error
                if attempt == self.retries or self.stopped.wait(wait):
                    kind = EndpointUnavailableError if error.gone else ModelError
                    raise kind(self._told(f"{_bare(error)} (after {tries})")) from error
                with self._lock:
                    self.retried += 1
        raise AssertionError("unreachable")

    def get(self, path: str) -> dict[str, Any]:
        """What one question without a body is answered. Raises ModelError; it is not tried again."""
        import httpx

        try:
            answer = self._answer("GET", path, min(self.timeout, ASKED))
            told = _json(answer) if answer.status_code == 200 else None
        except (httpx.RequestError, httpx.InvalidURL, ValueError) as error:
            raise ModelError(self._told(f"{path}: {error or type(error).__name__}")) from error
        if not isinstance(told, dict):
            raise ModelError(self._told(f"{path}: status {answer.status_code}"))
        return told

    def _wait(self, error: _AgainError, attempt: int, sent: bytes) -> float:
        """Between half and all of the doubled wait, so that requests that failed together do not return together."""
        if error.wait is not None:
            return error.wait
        part = int.from_bytes(hashlib.sha256(sent + bytes([attempt % 256])).digest()[:4]) / 2**32
        return min(self.backoff * 2.0**attempt, LONGEST) * (0.5 + 0.5 * part)

    def _once(self, path: str, sent: bytes) -> dict[str, Any]:
        import httpx

        try:
            answer = self._answer("POST", path, self.timeout, sent)
        except httpx.ConnectTimeout as error:
            raise _AgainError(f"no connection within {self.timeout:g} s.", gone=True) from error
        except httpx.TimeoutException as error:
            raise _AgainError(f"no answer within {self.timeout:g} s (model.timeout).") from error
        except httpx.DecodingError as error:
            raise _AgainError(f"the answer cannot be unpacked: {error}.") from error
        except httpx.TransportError as error:
            raise _AgainError(f"the connection failed: {error or type(error).__name__}.", gone=True) from error
        except httpx.InvalidURL as error:
            raise EndpointUnavailableError(f"model.url: {self.url} is not an address: {error}.") from error
        if answer.status_code != 200:
            self._refused(answer)
        try:
            told = _json(answer)
        except ValueError as error:
            raise _AgainError(f"the answer is not JSON ({_short(_text(answer))!r}).") from error
        if not isinstance(told, dict):
            raise _AgainError(f"the answer is not a JSON object ({_short(_text(answer))!r}).")
        return told

    def _answer(self, method: str, path: str, seconds: float, sent: bytes | None = None) -> "Response":
        """The whole answer, unpacked. seconds: for all of it."""
        import httpx

        (client, clock), found = self._client(), bytearray()
        clock.end = time.monotonic() + seconds
        headers = {} if sent is None else {"Content-Type": "application/json"}
        with client.stream(method, self.url + path, content=sent, headers=headers, timeout=seconds) as answer:
            for part in answer.iter_bytes():
                found += part
                if len(found) > MOST_BYTES:
                    raise ModelError(self._told(f"the answer has more than {MOST_BYTES // 2**20} MiB"))
        kept = [(name, told) for name, told in answer.headers.raw if name.lower() in (b"retry-after", b"location")]
        return httpx.Response(answer.status_code, headers=kept, content=bytes(found))

    def _refused(self, answer: "Response") -> None:
        """Raises what the status means."""
        status, (why, code) = answer.status_code, _reason(answer)
        said = f"status {status}: {why.rstrip('.')}"
        if code == "insufficient_quota":
            raise EndpointUnavailableError(self._told(said))
        if status in (408, 429) or status >= 500:
            raise _AgainError(said, _retry_after(answer.headers.get("Retry-After")), gone=status in QUIET)
        if status in (401, 403):
            where = f"the environment variable {self.key_env}" if self.key_env else "model.key_env, which is not set"
            raise EndpointUnavailableError(self._told(f"it refuses the key ({said}). The key is taken from {where}"))
        if status == 404:
            raise EndpointUnavailableError(
                self._told(f"{said}. Is model.url the address up to /v1, and model.model a name that it serves?")
            )
        if status < 300:
            raise ModelError(self._told(f"the answer has no choices: {said}"))
        if status < 400:
            there = answer.headers.get("Location", "elsewhere")
            raise EndpointUnavailableError(
                self._told(f"it sends on to {there}, and a key is not sent after it. Name the final address")
            )
        raise ModelError(self._told(f"the request is refused: {said}"))

    def _told(self, why: str) -> str:
        return self.masked(f"{self.url}: {why}" if why.endswith("?") else f"{self.url}: {_bare(why)}.")

    def masked(self, told: str) -> str:
        """Without the key, which an endpoint may repeat."""
        return told.replace(self.key, "***") if self.key else told


def _reason(answer: "Response") -> tuple[str, str]:
    """(message, code) of an error's body, which may be anything."""
    try:
        told = _json(answer)
    except ValueError:
        return _short(_text(answer)) or answer.reason_phrase, ""
    error = told.get("error", told) if isinstance(told, dict) else told
    if not isinstance(error, dict):
        return _short(str(error)), ""
    return _short(str(error.get("message") or error.get("detail") or error)), str(error.get("code", ""))


def _json(answer: "Response") -> Any:
    """Raises ValueError."""
    try:
        return json.loads(answer.content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _text(answer: "Response") -> str:
    """JSON is UTF-8; what a header says of an encoding may be anything."""
    return answer.content.decode("utf-8", "replace")


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
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


def _bare(said: object) -> str:
    return str(said).rstrip(".")


def _short(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
