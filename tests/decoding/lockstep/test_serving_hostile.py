"""A real server and hostile clients: each gets an error, and all other clients get their answers."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

from server_ends import CHAT, chat_body, image_message, png, raw, shared_llava
from server_process import KEY, Server


@pytest.fixture(scope="module")
def serving() -> Server:
    return shared_llava()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"presence_penalty": 1.0}, "presence_penalty: a request with a strategy returns one plain answer"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs: a request with a strategy"),
        ({"max_token": 3}, "max_token: a request with a strategy returns one plain answer. Remove this field. "
        "Did you mean"),
        ({"user": "\ud800"}, "unpaired surrogate"),
        ({"model": "\ud800"}, "unpaired surrogate"),
        ({"max_tokens": True}, "not True"),
        ({"vllm_xargs": {"strategy": "dola"}}, "hidden"),
        (image_message(png(9999, 9999), 3), "299,940,003 pixels together"),
        ({"vllm_xargs": {"strategy": json.dumps({"name": "contrast", "weights": [1] * 3001,
          "branches": ["no_image"] * 3000})}, "icl": {"trace": True}}, "has 3001 branches"),
        ({"vllm_xargs": {"strategy": json.dumps({"name": "contrast", "weights": [2, -1],
          "branches": [{"change": {"name": "random_colors", "patches": 100_000}}]})}}, "less than or equal to 256"),
    ],
)  # fmt: skip
def test_a_field_that_would_change_an_answer_or_break_the_server_is_refused(
    serving: Server, change: dict[str, Any], sentence: str
) -> None:
    for _ in range(2):
        status, answer = serving.chat(chat_body() | change)
        assert status == 400, answer
        assert sentence in answer["error"]["message"]
    assert serving.chat(chat_body())[0] == 200


def test_a_strategy_is_recognized_however_json_writes_its_key(serving: Server) -> None:
    text = json.dumps(chat_body("vdc"))
    for content in (text.replace("vllm_xargs", "vllm_\\u0078args").encode(), text.encode("utf-16")):
        status, answer = serving.chat(content)
        assert status == 400, answer
        assert "no strategy named 'vdc'" in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/v1/messages", f"{CHAT}/batch"])
def test_a_strategy_that_would_be_ignored_is_refused(serving: Server, path: str) -> None:
    status, answer = serving.call(path, chat_body() | {"prompt": "what?"})
    assert status == 400, answer
    assert f"vllm_xargs.strategy works only at POST {CHAT}" in answer


def test_a_key_that_needs_a_strategy_is_refused_without_one(serving: Server) -> None:
    status, answer = serving.chat(chat_body(None) | {"icl": {"trace": True}})
    assert status == 400, answer
    assert "vllm_xargs.strategy" in answer["error"]["message"]


def test_only_health_and_metrics_are_public(serving: Server) -> None:
    assert [serving.call(path, key="wrong")[0] for path in ("/health", "/metrics", "/version")] == [200] * 3
    for path in ("/invocations", "/tokenize", "/detokenize", "/scale_elastic_ep", CHAT, "/v1/completions"):
        status, answer = serving.call(path, chat_body(None) | {"prompt": "what?"}, key="wrong")
        assert status == 401, path
        assert "the API key is missing or wrong" in answer
    assert serving.call("/openapi.json", key="wrong")[0] == 401
    assert serving.call("/tokenize", {"model": "tiny", "prompt": "what?"})[0] == 200
    assert KEY not in serving.log.read_text()


def test_a_page_in_a_browser_cannot_send_requests(serving: Server) -> None:
    """It may send a text to any server without a preflight request, but not JSON."""
    answer = raw(serving, b"Content-Type: text/plain\r\n", json.dumps(chat_body()).encode())
    assert answer.startswith(b"HTTP/1.1 415")
    assert b"Content-Type: application/json" in answer


def test_no_image_is_fetched_for_a_client(serving: Server) -> None:
    fetched = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Inside) as inside:
        threading.Thread(target=inside.serve_forever, daemon=True).start()
        for strategy in ("vcd", None):
            status, answer = serving.chat(
                chat_body(strategy) | image_message(f"http://127.0.0.1:{inside.server_port}/secret")
            )
            assert status == 400, answer
        assert "allowed-media-domains" in answer["error"]["message"]
        inside.shutdown()
    assert fetched == []


def test_other_requests_are_answered_while_a_large_prompt_is_processed(serving: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(serving.chat, chat_body() | image_message(png(7000, 7000)))
        waits = []
        while not large.done():
            began = time.monotonic()
            assert serving.call("/health")[0] == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.02)
        assert large.result()[0] == 200
    assert max(waits) < sum(waits) / 2 + 1.0  # it takes seconds, and no health check waited for it


def test_clients_that_send_half_a_request_delay_nobody(serving: Server) -> None:
    half = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", serving.port), 20) for _ in range(100)]
    for i, connection in enumerate(connections):
        connection.sendall(half[: 20 + i] if i % 2 else half + b'{"vllm_xargs": ')
    assert serving.chat(chat_body())[0] == 200
    for connection in connections:
        connection.close()
    assert serving.chat(chat_body())[0] == 200
