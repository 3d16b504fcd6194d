"""A process for work on files of others that may crash, hang or need any amount of memory.

The worker is a Python file that calls `serve` (`icl.models.hf.template_worker`, `icl.tasks.drawings.svg_worker`). It
answers each line of JSON with a line of JSON, and ends itself after a limit of time.
"""

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icl.lazy_exports import ROOT

READY = "ready"
TIMED_OUT = 1
"""The exit status of a worker that ended itself (`faulthandler.dump_traceback_later`)."""


class LimitedProcess:
    """A worker that starts with the first request, and again after a request that ended it."""

    def __init__(self, worker: Path, what: str) -> None:
        """what: what it does, for the error of one that does not start: 'renders chat templates'."""
        self._worker, self._what = worker, what
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.stop)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | int:
        """The answer to a request, or the exit status of the worker if the request ended it.

        Raises:
            RuntimeError: The worker does not start.
        """
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = self._start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            status = self._process.wait()
            self.stop()
            return status
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process. The next request starts a new one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def _start(self) -> "subprocess.Popen[str]":
        """Start the process and wait until it is ready. -P: the folder of the worker is not searched for modules."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", str(self._worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "PYTHONUTF8": "1"},
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            _, errors = process.communicate()
            raise RuntimeError(f"the process that {self._what} did not start: {errors.strip()[-300:]}")
        return process


def serve(
    answer: Callable[[dict[str, Any]], dict[str, Any]], seconds: float, memory: int, *, opens_files: bool = True
) -> None:
    """Answers requests in a worker until its input ends.

    Args:
        answer: The answer to a request.
        seconds: Time of one request, after which the process ends itself.
        memory: Bytes of the address space of the process, where the system can limit it.
        opens_files: Whether the process may open files.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    answers.write(READY + "\n")
    answers.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # nobody reads the errors of a process that has started
        os.dup2(nowhere, stream.fileno())
    _limit(memory, None if opens_files else nowhere + 1)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
        reply = answer(json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _limit(memory: int, descriptors: int | None) -> None:
    """Limits memory, and the number of file descriptors."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits: dict[Any, int | None] = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: descriptors,
    }
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        if value is not None:
            try:
                resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
            except (OSError, ValueError):  # macOS refuses limits below the size of its shared libraries
                continue
