"""Renders chat templates of checkpoints in another process with limits on time, memory and output.

One process serves all checkpoints of this one. It starts at the first rendering, in about half a second; a rendering
costs about 0.1 ms more than without it. A template that exceeded a limit is not rendered again.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.models.hf.template_worker import READY, SECONDS

WORKER = Path(__file__).with_name("template_worker.py")


class TemplateRefusedError(Exception):
    """A template raised this error: it does not accept the conversation, or is broken."""


class TemplateLimitError(Exception):
    """A template exceeded a limit. The message completes a sentence: 'takes longer than 5 seconds'."""


class TemplateProcess:
    """A process that renders chat templates. It may be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped: dict[str, str] = {}
        """Template -> the limit that it exceeded."""

    def render(
        self, template: str, conversation: Sequence[Mapping[str, Any]], answers: bool, tokens: Mapping[str, Any]
    ) -> str:
        """The rendered conversation.

        Args:
            template: The chat template.
            conversation: Messages as processors take them, as JSON.
            answers: Whether the text ends where the answer begins.
            tokens: Special tokens by name, the variables of the template.

        Raises:
            TemplateRefusedError: The template raises an error.
            TemplateLimitError: The template exceeds a limit.
            ModelError: The process does not start.
        """
        request = {"template": template, "conversation": conversation, "answers": answers, "tokens": tokens}
        with self._lock:
            if template in self._stopped:
                raise TemplateLimitError(self._stopped[template])
            answer = self._ask(json.dumps(request))
            if "limit" in answer:
                self._stopped[template] = answer["limit"]
                raise TemplateLimitError(answer["limit"])
        if "error" in answer:
            raise TemplateRefusedError(answer["error"])
        return answer["text"]

    def stop(self) -> None:
        """End the process. The next rendering starts a new one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def _ask(self, line: str) -> dict[str, str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = _start()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(line + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self._process.wait()
            self.stop()
            late = f"takes longer than {SECONDS} seconds"
            return {"limit": late if status == 1 else f"ends the process that renders it (status {status})"}
        parsed: dict[str, str] = json.loads(answer)
        return parsed


def _start() -> "subprocess.Popen[str]":
    """Start the process and wait until it is ready. -P: the folder of the worker is not searched for modules."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != READY:
        _, errors = process.communicate()
        raise ModelError(f"the process that renders chat templates did not start: {errors.strip()[-300:]}")
    return process


PROCESS = TemplateProcess()
"""The process of all checkpoints."""

atexit.register(PROCESS.stop)
