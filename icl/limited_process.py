"""A process for work on files of others that may crash, hang or need any amount of memory.

The worker is a Python file that writes READY, then answers each line of JSON with a line of JSON, and ends itself after
a limit of time (`icl.models.hf.template_worker`, `icl.tasks.drawings.svg_worker`).
"""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    def ask(self, request: Mapping[str, Any]) -> dict[str, str] | int:
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
        answer: dict[str, str] = json.loads(line)
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
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", str(self._worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            _, errors = process.communicate()
            raise RuntimeError(f"the process that {self._what} did not start: {errors.strip()[-300:]}")
        return process
