"""The HTTP of the server with strategies: bodies read, answers and events written, as OpenAI's."""

import json
from collections.abc import AsyncIterator
from typing import Any

MOST_BYTES = 64 * 2**20
"""Of a request's body: a picture of 100 MB is refused before it is decoded."""


class RefusedError(Exception):
    """An answer with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def authenticated(args: Any, handler: Any) -> Any:
    """The middleware stands in front of vLLM's own check of the key, so it makes the same one."""
    from vllm import envs
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    tokens = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
    return AuthenticationMiddleware(handler, tokens) if tokens else handler


async def body(receive: Any) -> bytes:
    """The whole body. Raises RefusedError where it is too large."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(499, "the client left")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_BYTES:
            raise RefusedError(413, f"a request has {MOST_BYTES // 2**20} MiB at most. Send smaller pictures.")
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
    """The JSON of a body, or None."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None  # vLLM says what is wrong with it


async def gone(receive: Any) -> None:
    """Ends when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def chained(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The first piece, then the rest."""
    yield first
    async for piece in rest:
        yield piece


def error(sentence: str, status: int) -> dict[str, Any]:
    """The content of an answer that is none, as OpenAI writes it."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": status}}


async def answer(send: Any, status: int, content: Any) -> None:
    """Sends one answer of JSON."""
    raw = json.dumps(content, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def whole(send: Any, head: dict[str, Any], pieces: AsyncIterator[dict[str, Any]]) -> None:
    """Sends the answer when it is complete."""
    text, last = "", {}
    async for last in pieces:
        text += last["text"]
    if last["finish"] not in ("stop", "length"):
        await answer(send, 500, error(last["reason"] or f"the request ended: {last['finish']}", 500))
        return
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

    async def event(content: Any) -> None:
        told = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        await send({"type": "http.response.body", "body": f"data: {told}\n\n".encode(), "more_body": True})

    last: dict[str, Any] = {}
    role = {"role": "assistant"}
    async for last in pieces:
        failed = last["finish"] not in (None, "stop", "length")
        if failed:
            await event(error(last["reason"] or f"the request ended: {last['finish']}", 500))
            break
        choice = {"index": 0, "delta": role | {"content": last["text"]}, "finish_reason": last["finish"]}
        await event(head | {"object": "chat.completion.chunk", "choices": [choice]})
        role = {}
    if counted and last.get("finish") in ("stop", "length"):
        await event(head | {"object": "chat.completion.chunk", "choices": [], "usage": usage(last)})
    await event("[DONE]")
    await send({"type": "http.response.body", "body": b""})


def usage(last: dict[str, Any]) -> dict[str, int]:
    """Tokens read, of all branches, and tokens of the answer."""
    return {
        "prompt_tokens": last["read"],
        "completion_tokens": last["new"],
        "total_tokens": last["read"] + last["new"],
    }
