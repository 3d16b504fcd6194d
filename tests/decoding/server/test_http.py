"""Bodies, responses and events of the server, as ASGI messages. No server is needed."""

import asyncio
import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from decoding.server.http import (
    CLIENT_TIMEOUT_SECONDS,
    MAX_BODY_BYTES,
    HTTPError,
    LoadingResponder,
    TrackedSend,
    body_message,
    chain,
    error_content,
    header,
    is_authorized,
    is_json,
    parse_json,
    path_of,
    prepend_message,
    read_body,
    send_completion,
    send_event,
    send_json,
    send_stream,
    wait_for_disconnect,
)

PIECES = [
    {"text": "bl", "finish": None, "ids": [1], "prompt_tokens": 7, "new_tokens": 1},
    {"text": "ue", "finish": "stop", "ids": [1, 2], "prompt_tokens": 7, "new_tokens": 2},
]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def receiver(*messages: dict[str, Any]) -> Any:
    """An ASGI `receive` that returns these messages, then that the client has hung up."""
    remaining = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(remaining, {"type": "http.disconnect"})

    return receive


class Recorder:
    """An ASGI `send` that records its messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def events(self) -> list[Any]:
        """The content of the server-sent events: JSON, or the text that ends the stream."""
        texts = [message["body"].decode() for message in self.messages if message["type"] == "http.response.body"]
        assert all(text.startswith("data: ") and text.endswith("\n\n") for text in texts)
        return [text if text == "[DONE]" else json.loads(text) for text in (text[6:-2] for text in texts)]

    @property
    def has_ended(self) -> bool:
        """Whether the last message, and no earlier one, ends the response."""
        more = [message.get("more_body", False) for message in self.messages if message["type"] == "http.response.body"]
        return more == [True] * (len(more) - 1) + [False]


async def iterate(pieces: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for piece in pieces:
        yield piece


def piece(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_read_to_its_end() -> None:
    whole = receiver(
        piece(b"a", True), {"type": "http.request", "more_body": True}, piece(b"b", False), piece(b"c", True)
    )
    assert asyncio.run(read_body(whole)) == b"ab"
    with pytest.raises(HTTPError, match="the client disconnected") as error:
        asyncio.run(read_body(receiver(piece(b"a", True))))
    assert error.value.status == 499


def test_a_body_has_at_most_64_mib() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2)
    assert len(asyncio.run(read_body(receiver(piece(half, True), piece(half, False))))) == 64 * 2**20
    with pytest.raises(HTTPError, match=r"at most 64 MiB\. Send smaller images") as error:
        asyncio.run(read_body(receiver(piece(half, True), piece(half, True), piece(b"x", False))))
    assert error.value.status == 413


def test_a_body_that_was_read_is_received_once_more() -> None:
    async def scenario() -> list[Any]:
        receive = prepend_message(body_message(b"a"), receiver(piece(b"b", False)))
        return [await receive() for _ in range(3)]

    assert asyncio.run(scenario()) == [piece(b"a", False), piece(b"b", False), {"type": "http.disconnect"}]
    receive = receiver(piece(b"b", False), {"type": "http.disconnect"}, piece(b"c", False))
    asyncio.run(wait_for_disconnect(receive))
    assert asyncio.run(receive()) == piece(b"c", False)


def test_a_malformed_body_is_nothing_and_half_a_surrogate_pair_is_an_error() -> None:
    assert parse_json(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    assert parse_json(b"{") is None
    assert parse_json(b"[" * 100_000) is None
    with pytest.raises(HTTPError, match=r"an unpaired surrogate \('\\ud83d'\)") as error:
        parse_json(b'{"a": "\\uD83D"}')
    assert error.value.status == 400


def test_headers_and_path_of_a_request() -> None:
    scope = {
        "path": "/models/v1/chat",
        "root_path": "/models",
        "headers": [(b"content-type", b"Application/JSON; x=1")],
    }
    assert (path_of(scope), path_of({"path": "/v1"})) == ("/v1/chat", "/v1")
    assert is_json(scope)
    assert not is_json({"headers": [(b"content-type", b"text/plain")]})
    assert header({"headers": []}, b"content-type") == b""


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (499, "BadRequestError"), (500, "InternalServerError")]
)
def test_an_error_has_the_shape_of_openai(status: int, kind: str) -> None:
    assert error_content("Stop.", status) == {
        "error": {"message": "Stop.", "type": kind, "param": None, "code": status}
    }


@pytest.mark.parametrize(("status", "retry"), [(200, None), (502, None), (503, b"10"), (504, None)])
def test_only_a_server_that_will_be_back_names_a_time(status: int, retry: bytes | None) -> None:
    send = Recorder()
    asyncio.run(send_json(send, status, {"a": "é"}))
    start, body = send.messages
    headers = dict(start["headers"])
    assert (start["status"], headers.get(b"retry-after")) == (status, retry)
    assert body["body"] == '{"a": "é"}'.encode()
    assert headers[b"content-length"] == b"11"


def test_an_answer_is_whole_or_comes_in_pieces() -> None:
    whole, stream = Recorder(), Recorder()
    first, *rest = PIECES
    asyncio.run(send_completion(whole, {"id": "x"}, chain(first, iterate(rest))))
    assert whole.messages[0]["status"] == 200
    assert json.loads(whole.messages[1]["body"]) == {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "blue"},
                "finish_reason": "stop",
                "token_ids": [1, 2],
            }
        ],
        "usage": USAGE,
    }
    asyncio.run(send_stream(stream, {"id": "x"}, iterate(PIECES), include_usage=True))
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    assert stream.messages[0] == start
    *chunks, usage, end = stream.events
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "delta": {"role": "assistant", "content": "bl"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "ue"}, "finish_reason": "stop"},
    ]
    assert usage == {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
    assert end == "[DONE]"
    assert stream.has_ended


def test_token_ids_and_usage_come_only_if_they_are_requested() -> None:
    whole, stream = Recorder(), Recorder()
    asyncio.run(send_completion(whole, {}, iterate([{**PIECES[0], "ids": None}])))
    assert "token_ids" not in json.loads(whole.messages[1]["body"])["choices"][0]
    asyncio.run(send_stream(stream, {}, iterate(PIECES), include_usage=False))
    assert len(stream.events) == 3
    assert all("usage" not in event for event in stream.events)


@pytest.mark.parametrize("started", [False, True])
def test_an_error_is_a_response_or_the_last_event_of_a_stream(started: bool) -> None:
    async def scenario(send: Recorder) -> None:
        tracked = TrackedSend(send)
        assert not tracked.has_started
        assert not tracked.has_ended
        if started:
            await send_event(tracked, {"text": "é"})
        await tracked.send_error(HTTPError(503, "Stop."))
        sent = len(send.messages)
        await tracked.send_error(HTTPError(500, "Again."))  # the response has ended
        assert (tracked.has_started, tracked.has_ended, len(send.messages)) == (True, True, sent)

    send = Recorder()
    asyncio.run(scenario(send))
    content = error_content("Stop.", 503)
    if started:
        assert send.messages[0]["body"] == 'data: {"text": "é"}\n\n'.encode()
        assert send.events[1:] == [content, "[DONE]"]
    else:
        assert send.messages[0]["status"] == 503
        assert json.loads(send.messages[1]["body"]) == content
    assert send.has_ended


class StubAuthentication:
    """The part of vLLM's middleware that compares the key of a header; `test_serving.py` runs the real one."""

    def __init__(self, app: None, tokens: list[str]) -> None:
        self.tokens = tokens

    def verify_token(self, headers: dict[str, str]) -> bool:
        return headers["Authorization"] in [f"Bearer {token}" for token in self.tokens]


@pytest.mark.parametrize(
    ("request_line", "key", "expected"),
    [
        ("POST /v1/chat/completions", "", False),
        ("POST /v1/chat/completions", "wrong", False),
        ("POST /v1/chat/completions", "right", True),
        ("GET /v1/models", "", False),
        ("GET /health", "", True),
        ("HEAD /health", "", True),
        ("POST /health", "", False),
        ("OPTIONS /v1/chat/completions", "", True),
    ],
)
@pytest.mark.parametrize("source", ["argument", "environment", "nowhere"])
def test_a_request_needs_the_key_unless_it_is_public_or_there_is_none(
    monkeypatch: pytest.MonkeyPatch, source: str, request_line: str, key: str, expected: bool
) -> None:
    names = ["vllm", "vllm.entrypoints", "vllm.entrypoints.serve", "vllm.entrypoints.serve.middleware"]
    modules = {name: ModuleType(name) for name in [*names, f"{names[-1]}.authenticate"]}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    environment = SimpleNamespace(VLLM_API_KEY="right" if source == "environment" else None)
    monkeypatch.setattr(modules["vllm"], "envs", environment, raising=False)
    authenticate = modules[f"{names[-1]}.authenticate"]
    monkeypatch.setattr(authenticate, "AuthenticationMiddleware", StubAuthentication, raising=False)
    args = SimpleNamespace(api_key=["right"] if source == "argument" else None)
    method, path = request_line.split()
    scope = {"method": method, "path": path, "headers": [(b"authorization", f"Bearer {key}".encode())]}
    assert is_authorized(args, scope) is (expected or source == "nowhere")


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def send(sock: socket.socket, body: bytes | None = None) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body of the answer to a request."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{sock.getsockname()[1]}/v1/models", body, timeout=20) as answer:
            return answer.status, answer.headers["Retry-After"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"], error.read()


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 500_000])
def test_every_request_is_answered_with_503(bound: socket.socket, body: bytes | None) -> None:
    responder = LoadingResponder()
    responder.start(bound)
    status, retry_after, content = send(bound, body)
    responder.stop()
    assert (status, retry_after) == (503, "10")
    assert "loading its model" in json.loads(content)["error"]["message"]


def test_a_client_that_sends_half_a_request_delays_nobody(bound: socket.socket) -> None:
    responder, before = LoadingResponder(), set(threading.enumerate())
    responder.start(bound)
    with socket.create_connection(bound.getsockname(), 20) as client:
        client.sendall(b"POST /v1/models HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
        assert send(bound)[0] == 503
        # One that serves, one that waits for the client: the process may end without them.
        threads = set(threading.enumerate()) - before
        assert len(threads) >= 2
        assert all(thread.daemon for thread in threads)
        responder.stop()


def test_a_length_that_is_no_number_is_answered_without_waiting_for_a_body(bound: socket.socket) -> None:
    responder = LoadingResponder()
    responder.start(bound)
    with socket.create_connection(bound.getsockname(), CLIENT_TIMEOUT_SECONDS / 2) as client:
        client.sendall(b"POST /v1/models HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 503")
    responder.stop()


def test_a_responder_that_has_stopped_leaves_no_thread(bound: socket.socket) -> None:
    """It accepts no connection any more, and may be started and stopped again."""
    responder = LoadingResponder()
    for _ in range(2):
        before = set(threading.enumerate())
        responder.start(bound.dup())
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        responder.stop()
        assert not thread.is_alive()


def test_the_next_server_takes_over_the_socket(bound: socket.socket) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    responder = LoadingResponder()
    responder.stop()  # it may never have started
    responder.start(bound)
    assert send(bound)[0] == 503
    responder.stop()
    answers: list[int] = []
    early = threading.Thread(target=lambda: answers.append(send(bound)[0]))
    early.start()  # between the two servers: the connection waits
    server = HTTPServer(("127.0.0.1", 0), Ready, bind_and_activate=False)
    server.socket.close()
    server.socket = bound
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    early.join(20)
    server.shutdown()
    assert answers == [200]
