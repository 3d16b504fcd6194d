"""A real server of `icl serve` in a process of its own, and calls to it without any client library."""

import atexit
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environment import importing_vllm

from experiments.cli.serve import server

KEY = "a key of the test"


@dataclass
class Server:
    """A running server. statuses: of /health while the model loads and after that."""

    port: int
    log: Path
    process: "subprocess.Popen[bytes] | ForkedServer"
    statuses: list[int] = field(default_factory=list)

    def call(self, path: str, body: Any = None, key: str = KEY, timeout: float = 120) -> tuple[int, str]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def chat(self, body: Any, **more: Any) -> tuple[int, Any]:
        status, text = self.call("/v1/chat/completions", body, **more)
        return status, json.loads(text)

    def hang_up(self, body: Any, patience: float) -> None:
        """Sends a request, waits up to `patience` seconds for the first bytes of the answer, and hangs up."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        with suppress(OSError):
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=patience) as answer:
                answer.read(64)

    def metric(self, name: str) -> float:
        lines = self.call("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def by_engine(self, name: str) -> dict[str, float]:
        """The values of a metric, by engine."""
        values: dict[str, float] = {}
        for line in self.call("/metrics")[1].splitlines():
            if line.startswith(f"vllm:{name}{{"):
                engine = line.partition('engine="')[2].partition('"')[0]
                values[engine] = values.get(engine, 0.0) + float(line.rsplit(" ", 1)[1])
        return values


class ForkedServer:
    """A server, and its engine, forked from a process that has imported vLLM, which saves 20 CPU seconds a start.

    Methods are those of Popen. Production starts new interpreters: the tests of `vllm serve` do so, and with
    `ICL_TEST_MATRIX` those of `shared_llava`.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        context = importing_vllm()
        self._process = context.Process(target=_serve, args=(arguments, environment, str(log)))
        self._process.start()
        self.pid, self.terminate, self.kill = self._process.pid, self._process.terminate, self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def _serve(arguments: list[str], environment: dict[str, str], log: str) -> None:
    import setproctitle

    setproctitle.getproctitle()  # finds the place of the title, which it cannot once the environment has moved
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    own_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: own_context("fork" if method == "spawn" else method)  # type: ignore[assignment]
    sys.argv = arguments[1:]  # without -m
    try:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


@contextmanager
def started(
    model: str, log: Path, options: list[str], port: int = 0, *, fork: bool = False, **settings: Any
) -> Iterator[Server]:
    """A server that runs until the end of the block, and must then stop on SIGTERM.

    Args:
        model: The checkpoint.
        log: The file of what it prints.
        options: Options of vLLM.
        port: 0 for a free one.
        fork: Whether it is a `ForkedServer`.
        settings: Of `icl serve`.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    os.environ["ICL_TEST_KEY"] = KEY
    arguments, environment = server(model, "127.0.0.1", port, api_key_env="ICL_TEST_KEY", options=options, **settings)
    process: subprocess.Popen[bytes] | ForkedServer
    if fork and os.environ.get("ICL_TEST_RUNNER") != "2":
        process = ForkedServer(arguments, environment, log)
    else:
        with log.open("w") as out:
            process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=out, env=environment)
    made = Server(port, log, process)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(OSError):
                made.statuses.append(made.call("/health", timeout=2)[0])
                if made.statuses[-1] == 200:
                    break
            time.sleep(1)
        yield made
        process.terminate()
        assert process.wait(60) is not None
    finally:
        process.kill()


_SHARED: dict[str, tuple[Server, ExitStack]] = {}


def shared(model: str, options: list[str], port: int = 0, **settings: Any) -> Server:
    """The server with these settings that all tests of the session share. A start costs half a minute of CPU time.

    The last test of a file may stop it. The next one that asks for it gets a new server, on `port`.
    """
    key = json.dumps([model, options, settings])
    if key in _SHARED and _SHARED[key][0].process.poll() is None:
        return _SHARED[key][0]
    stack = ExitStack()
    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
    _SHARED[key] = stack.enter_context(started(model, log, options, port, **settings)), stack
    return _SHARED[key][0]


def stop_shared() -> None:
    """Stops all shared servers, at the end of the session."""
    while _SHARED:
        _SHARED.popitem()[1][1].close()
