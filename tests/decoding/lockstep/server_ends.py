"""Requests of every kind to a server, and the processes that a server leaves behind when it ends."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

import checkpoints
from chats import body
from server_process import KEY, Server, shared

CHAT = "/v1/chat/completions"
OPTIONS = ["max-model-len=512", "max-num-seqs=16", "max-num-batched-tokens=256", "kv-cache-memory-bytes=200000000"]


def shared_llava() -> Server:
    """A server of a tiny LLaVA. It is forked, but for `make test-vllm-long`."""
    named = ["tiny-vcd={name: vcd, alpha: 0.8}"]
    settings: dict[str, Any] = {"name": "tiny", "strategy_models": named, "max_images": 4, "patience": 3}
    return shared(str(checkpoints.shared("llava")), OPTIONS, fork="ICL_TEST_MATRIX" not in os.environ, **settings)


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


def raw(serving: Server, headers: bytes, sent: bytes) -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(sent)}\r\n"
    with socket.create_connection(("127.0.0.1", serving.port), 20) as connection:
        connection.sendall(head.encode() + headers + b"Connection: close\r\n\r\n" + sent)
        answer = b""
        while part := connection.recv(2**16):
            answer += part
    return answer


LONG = {"max_tokens": 400, "temperature": 300.0, "seed": 28, "vllm_xargs": {"strategy": json.dumps(
    {"name": "contrast", "branches": ["no_image"], "weights": [1, 0], "mask": "none"})}}  # fmt: skip
"""At this temperature each token is as likely as any other, and 14 of them end the answer: with this seed after 141."""


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
