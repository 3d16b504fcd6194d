"""The HTTP of the server with strategies: bodies read, answers and events written, as OpenAI's."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

MOST_BYTES = 64 * 2**20
"""Of a request's body: an image of 100 MB is refused before it is decoded."""


RETRY_SECONDS = 10
"""Seconds after which a client may try again (Retry-After), where the server cannot answer now."""


class HTTPError(Exception):
    """An answer with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


OPEN = frozenset({"/health", "/ping", "/version", "/load", "/metrics"})
"""What a GET is told without a key, as vLLM tells it."""

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character beyond the first 65,536."""


def path_of(scope: Any) -> str:
    """The path of a request, without what `--root-path` puts before it."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def may_enter(args: Any, scope: Any) -> bool:
    """Whether a request brings the key, where there is one.

    vLLM asks for it on paths that begin with /v1 and the like, and answers chats on others too (/invocations).
    """
    from vllm import envs
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    tokens = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
    free = scope["method"] == "OPTIONS" or (scope["method"] in ("GET", "HEAD") and path_of(scope) in OPEN)
    if not tokens or free:
        return True
    brought = header(scope, b"authorization").decode("latin-1")
    return bool(AuthenticationMiddleware(None, tokens).verify_token({"Authorization": brought}))


def is_json(scope: Any) -> bool:
    """Whether a request says that its body is JSON: what a page in a browser cannot say to a server that is not its."""
    return header(scope, b"content-type").partition(b";")[0].strip().lower() == b"application/json"


def header(scope: Any, name: bytes) -> bytes:
    """Of a request; b"" where it has none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def body(receive: Any) -> bytes:
    """The whole body. Raises RefusedError where it is too large."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPError(499, "the client left")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_BYTES:
            raise HTTPError(413, f"a request has {MOST_BYTES // 2**20} MiB at most. Send smaller images.")
        if not message.get("more_body"):
            return b"".join(pieces)


def request(raw: bytes) -> Any:
    """The message of a body that has been read."""
    return {"type": "http.request", "body": raw, "more_body": False}


def again(message: Any, receive: Any) -> Any:
    """A `receive` that gives the message that was taken, then what comes after it."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return message

    return replay


def parsed(raw: bytes) -> Any:
    """The JSON of a body, or None. Raises RefusedError for a text that no tokenizer and no answer can hold."""
    try:
        told = json.loads(raw)
        if HALF.search(raw):
            json.dumps(told, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise HTTPError(400, f"a text of the request has half a character ({half}), which no encoding has.") from error
    except (ValueError, RecursionError):
        return None  # vLLM says what is wrong with it
    return told


async def gone(receive: Any) -> None:
    """Ends when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def chained(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The first piece, then the rest."""
    yield first
    async for piece in rest:
        yield piece


def error_content(sentence: str, status: int) -> dict[str, Any]:
    """The content of an answer that is none, as OpenAI writes it."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": status}}


class TrackedSend:
    """A `send` that knows how far its answer is."""

    def __init__(self, send: Any) -> None:
        self.send, self.begun, self.ended = send, False, False

    async def __call__(self, message: Any) -> None:
        self.begun = True
        self.ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self.send(message)

    async def refuse(self, refused: HTTPError) -> None:
        """Says that there is no answer, or that the stream that has begun ends here."""
        content = error_content(str(refused), refused.status)
        if not self.begun:
            await answer(self, refused.status, content)
        elif not self.ended:
            await event(self, content)
            await event(self, "[DONE]", last=True)


async def answer(send: Any, status: int, content: Any) -> None:
    """Sends one answer of JSON."""
    raw = json.dumps(content, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def event(send: Any, content: Any, last: bool = False) -> None:
    """Sends one of server-sent events."""
    told = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    await send({"type": "http.response.body", "body": f"data: {told}\n\n".encode(), "more_body": not last})


async def whole(send: Any, head: dict[str, Any], pieces: AsyncIterator[dict[str, Any]]) -> None:
    """Sends the answer when it is complete."""
    text, last = "", {}
    async for last in pieces:
        text += last["text"]
    message: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": last["finish"],
    }
    if last["ids"] is not None:
        message["token_ids"] = last["ids"]
    await answer(send, 200, head | {"object": "chat.completion", "choices": [message], "usage": usage(last)})


async def stream(send: Any, head: dict[str, Any], pieces: AsyncIterator[dict[str, Any]], counted: bool) -> None:
    """Server-sent events as OpenAI's. The pieces' `new` counts all tokens so far. counted: told in an event."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    last: dict[str, Any] = {}
    role = {"role": "assistant"}
    async for last in pieces:
        choice = {"index": 0, "delta": role | {"content": last["text"]}, "finish_reason": last["finish"]}
        await event(send, head | {"object": "chat.completion.chunk", "choices": [choice]})
        role = {}
    if counted:
        await event(send, head | {"object": "chat.completion.chunk", "choices": [], "usage": usage(last)})
    await event(send, "[DONE]", last=True)


def usage(last: dict[str, Any]) -> dict[str, int]:
    """Tokens read, of all branches, and tokens of the answer."""
    return {
        "prompt_tokens": last["read"],
        "completion_tokens": last["new"],
        "total_tokens": last["read"] + last["new"],
    }
