"""A real server and hostile clients: each gets an error, and all other clients get their answers."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
from chats import body
from server_process import KEY, Server, started

OPTIONS = ["max-model-len=512", "max-num-seqs=16", "max-num-batched-tokens=256", "kv-cache-memory-bytes=200000000"]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.saved("llava", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def serving(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with started(str(folder), log, OPTIONS, name="tiny", max_images=4, patience=3) as made:
        yield made


def chat_body(strategy: Any = "vcd", **more: Any) -> dict[str, Any]:
    return body(checkpoints.tiny_models().prompt([1], "what?"), strategy, **more)


def png(width: int, height: int) -> str:
    from PIL import Image as PILImage

    file = io.BytesIO()
    PILImage.new("1", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_message(url: str, times: int = 1) -> dict[str, Any]:
    pieces: list[Any] = [{"type": "image_url", "image_url": {"url": url}}] * times
    return {"messages": [{"role": "user", "content": [*pieces, {"type": "text", "text": "what?"}]}]}


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
    for raw in (text.replace("vllm_xargs", "vllm_\\u0078args").encode(), text.encode("utf-16")):
        status, answer = serving.chat(raw)
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


def raw(serving: Server, headers: bytes, sent: bytes) -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(sent)}\r\n"
    with socket.create_connection(("127.0.0.1", serving.port), 20) as connection:
        connection.sendall(head.encode() + headers + b"Connection: close\r\n\r\n" + sent)
        answer = b""
        while part := connection.recv(2**16):
            answer += part
    return answer


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


LONG = {"max_tokens": 400, "temperature": 300.0, "seed": 1, "vllm_xargs": {"strategy": json.dumps(
    {"name": "contrast", "branches": ["no_image"], "weights": [1, 0], "mask": "none"})}}  # fmt: skip


def descendants(pid: int) -> dict[int, str]:
    """The descendants of a process: process id -> command."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    processes, parents = {}, {pid}
    while parents:
        children = {int(own): args for own, parent, args in rows if int(parent) in parents}
        processes |= children
        parents = set(children)
    return processes


def survivors(children: dict[int, str]) -> list[str]:
    """The processes that are still alive some time after their parent has ended."""
    for _ in range(100):
        alive = [command for pid, command in children.items() if is_alive(pid)]
        if not alive:
            break
        time.sleep(0.3)
    return alive


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started_requests(
    serving: Server, how: list[dict[str, Any]], running: int = 6
) -> tuple[list[threading.Thread], list[tuple[int, str]]]:
    answers: list[tuple[int, str]] = []

    def ask(more: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, HTTPException):  # a server that was killed
            answers.append(serving.call(CHAT, chat_body() | LONG | more))

    threads = [threading.Thread(target=ask, args=(more,)) for more in how]
    for thread in threads:
        thread.start()
    for _ in range(200):  # until three groups run, say
        if serving.metric("num_requests_running") >= min(2 * len(how), running):
            break
        time.sleep(0.02)
    return threads, answers


def test_a_server_that_is_stopped_finishes_its_groups_and_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    with started(str(folder), tmp_path / "log", OPTIONS, name="tiny", max_images=4, patience=3) as serving:
        children = descendants(serving.process.pid)
        generate_first = [{"vllm_xargs": {"strategy": name}} for name in ("code", "dcd")] * 15
        early = [
            {"max_tokens": 8, "temperature": 0} | more for more in (image_message(png(5000, 5000)), *generate_first)
        ]
        running, answers = started_requests(serving, [{}, {"stream": True}, {"ignore": None}])
        arriving, early_answers = started_requests(serving, early, running=0)
        time.sleep(0.3)
        for _ in range(2):  # the server reads connections in turn: the requests above have arrived
            assert serving.call("/health")[0] == 200
        half = socket.create_connection(("127.0.0.1", serving.port), 20)
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        os.kill(serving.process.pid, signal.SIGTERM)
        json_type = b"Content-Type: application/json\r\n"
        while not raw(serving, json_type, json.dumps(chat_body()).encode()).startswith(b"HTTP/1.1 503"):
            pass  # the server handles the signal a moment later
        late = [raw(serving, json_type, json.dumps(content).encode()) for content in (
            chat_body(), chat_body(None),
        )]  # fmt: skip
        for thread in running + arriving:
            thread.join(60)
        assert [status for status, _ in answers] == [200] * 3
        assert any(text.rstrip().endswith("data: [DONE]") for _, text in answers)
        assert [status for status, _ in early_answers] == [200] * 31, early_answers
        for answer in late:
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 10" in answer
            assert b"the server is stopping" in answer
        assert serving.process.wait(60) is not None  # though a client still holds half a request
        half.close()
    assert 503 in serving.statuses  # while the model was loading
    assert survivors(children) == []


def test_an_engine_that_dies_fails_all_its_requests_and_ends_the_server(folder: Path, tmp_path: Path) -> None:
    with started(str(folder), tmp_path / "log", OPTIONS, name="tiny", max_images=4, patience=3) as serving:
        children = descendants(serving.process.pid)
        how: list[dict[str, Any]] = [{}, {"stream": True}, {"icl": {"trace": True}}]
        threads, answers = started_requests(serving, how * 16)  # more than run at once: some have not begun
        os.kill(next(pid for pid, command in children.items() if "EngineCore" in command), signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert len(answers) == 48
        why = ("the engine has failed", "does not return its records", "the server is stopping")
        broken = [text for _, text in answers if any(some in text for some in why)]
        assert broken
        assert {status for status, text in answers if "data: " not in text and text not in broken} <= {200}
        assert {status for status, text in answers if "data: " not in text and text in broken} == {503}
        assert serving.process.wait(60) is not None
    assert survivors(children) == []


def test_a_server_that_is_killed_leaves_no_engine_behind(folder: Path, tmp_path: Path) -> None:
    with started(str(folder), tmp_path / "log", OPTIONS, name="tiny", max_images=4, patience=3) as serving:
        children = descendants(serving.process.pid)
        assert any("EngineCore" in command for command in children.values())
        threads, _ = started_requests(serving, [{}, {"stream": True}])
        serving.process.kill()
        assert survivors(children) == []
        for thread in threads:
            thread.join(60)
