"""HTTP of the server with strategies: reads request bodies, and writes responses and events as OpenAI's API does."""

import json
import re
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY_BYTES = 64 * 2**20
"""Size limit of a request body. An image of 100 MB is refused before it is decoded."""

RETRY_SECONDS = 10
"""Seconds after which a client may try again (Retry-After), if the server cannot answer now."""


class HTTPError(Exception):
    """An error response: a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


PUBLIC_PATHS = frozenset({"/health", "/ping", "/version", "/load", "/metrics"})
"""Paths that need no key for GET, as in vLLM."""

SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character beyond the first 65,536."""


def path_of(scope: Any) -> str:
    """The path of a request, without the prefix of `--root-path`."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def is_authorized(args: Any, scope: Any) -> bool:
    """Whether a request has the key, if one is needed.

    vLLM checks the key on paths that begin with /v1 and the like, but it also answers chats on others (/invocations).
    """
    from vllm import envs
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    tokens = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
    is_public = scope["method"] == "OPTIONS" or (scope["method"] in ("GET", "HEAD") and path_of(scope) in PUBLIC_PATHS)
    if not tokens or is_public:
        return True
    authorization = header(scope, b"authorization").decode("latin-1")
    return bool(AuthenticationMiddleware(None, tokens).verify_token({"Authorization": authorization}))


def is_json(scope: Any) -> bool:
    """Whether the content type is JSON. A page in a browser cannot send that to the server of another origin."""
    return header(scope, b"content-type").partition(b";")[0].strip().lower() == b"application/json"


def header(scope: Any, name: bytes) -> bytes:
    """The value of a request header, b"" if it is missing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def read_body(receive: Any) -> bytes:
    """The complete body. Raises HTTPError if it is too large or the client disconnects."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPError(499, "the client disconnected")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_BODY_BYTES:
            raise HTTPError(413, f"a request has at most {MAX_BODY_BYTES // 2**20} MiB. Send smaller images.")
        if not message.get("more_body"):
            return b"".join(pieces)


def body_message(raw: bytes) -> Any:
    """The ASGI message of a body that has been read."""
    return {"type": "http.request", "body": raw, "more_body": False}


def prepend_message(message: Any, receive: Any) -> Any:
    """A `receive` that returns `message` first, and then the messages of `receive`."""
    is_replayed = False

    async def replay() -> Any:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return message

    return replay


def parse_json(raw: bytes) -> Any:
    """The JSON of a body, None if it is malformed. Raises HTTPError for an unpaired surrogate."""
    try:
        content = json.loads(raw)
        if SURROGATE_ESCAPE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise HTTPError(
            400, f"the request contains an unpaired surrogate ({half}), which cannot be encoded."
        ) from error
    except (ValueError, RecursionError):
        return None  # vLLM reports what is wrong with it
    return content


async def wait_for_disconnect(receive: Any) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def chain(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The first piece, then the rest."""
    yield first
    async for piece in rest:
        yield piece


def error_content(message: str, status: int) -> dict[str, Any]:
    """The content of an error response, as OpenAI writes it."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


class TrackedSend:
    """An ASGI `send` that records whether the response has started and ended."""

    def __init__(self, send: Any) -> None:
        self.send, self.has_started, self.has_ended = send, False, False

    async def __call__(self, message: Any) -> None:
        self.has_started = True
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self.send(message)

    async def send_error(self, error: HTTPError) -> None:
        """Sends an error response, or ends a stream that has started with an error event."""
        content = error_content(str(error), error.status)
        if not self.has_started:
            await send_json(self, error.status, content)
        elif not self.has_ended:
            await send_event(self, content)
            await send_event(self, "[DONE]", last=True)


async def send_json(send: Any, status: int, content: Any) -> None:
    """Sends a complete response with JSON."""
    raw = json.dumps(content, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def send_event(send: Any, content: Any, last: bool = False) -> None:
    """Sends one server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": not last})


async def send_completion(send: Any, head: dict[str, Any], pieces: AsyncIterator[dict[str, Any]]) -> None:
    """Sends the answer when it is complete."""
    text, last = "", {}
    async for last in pieces:
        text += last["text"]
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": last["finish"],
    }
    if last["ids"] is not None:
        choice["token_ids"] = last["ids"]
    await send_json(send, 200, head | {"object": "chat.completion", "choices": [choice], "usage": _usage(last)})


async def send_stream(
    send: Any, head: dict[str, Any], pieces: AsyncIterator[dict[str, Any]], include_usage: bool
) -> None:
    """Sends the pieces as server-sent events. With `include_usage` the last event counts tokens."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    last: dict[str, Any] = {}
    role = {"role": "assistant"}
    async for last in pieces:
        choice = {"index": 0, "delta": role | {"content": last["text"]}, "finish_reason": last["finish"]}
        await send_event(send, head | {"object": "chat.completion.chunk", "choices": [choice]})
        role = {}
    if include_usage:
        await send_event(send, head | {"object": "chat.completion.chunk", "choices": [], "usage": _usage(last)})
    await send_event(send, "[DONE]", last=True)


def _usage(last: dict[str, Any]) -> dict[str, int]:
    """Prompt tokens of all branches, and tokens of the answer."""
    return {
        "prompt_tokens": last["prompt_tokens"],
        "completion_tokens": last["new_tokens"],
        "total_tokens": last["prompt_tokens"] + last["new_tokens"],
    }


LOADING_MESSAGE = "the server is loading its model. Send the request again later."

CLIENT_TIMEOUT_SECONDS = 5
"""Seconds that a client has to send its request."""

MAX_DISCARDED_BYTES = 2**20
"""Bytes of a body that are read before the answer. Some clients read no answer before they have sent their body."""


class _LoadingHandler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_SECONDS

    def _refuse(self) -> None:
        length = self.headers.get("Content-Length", "0")
        self.rfile.read(min(int(length) if length.isdecimal() else 0, MAX_DISCARDED_BYTES))
        content = json.dumps(error_content(LOADING_MESSAGE, 503)).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", str(RETRY_SECONDS))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # the base class looks up do_GET, do_POST and so on
            return self._refuse
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


class _LoadingServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up."""


class LoadingResponder:
    """HTTP server in a thread that answers every request with 503 and Retry-After while the model loads.

    vLLM binds its port before it loads the model, and listens on it only afterwards. Here the bound socket listens at
    once: a thread answers on it until vLLM's HTTP server takes over.
    """

    def __init__(self) -> None:
        self._server: _LoadingServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, sock: Any) -> None:
        """Answers on a bound TCP socket."""
        self._server = _LoadingServer(sock.getsockname()[:2], _LoadingHandler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="loading", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answers nothing more. The socket goes on listening, so connections wait for the next server."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server = self._thread = None


LOADING = LoadingResponder()
