"""Renders chat templates of checkpoints in another process with limits on time, memory and output.

One process serves all checkpoints of this one. It starts at the first rendering, in about half a second; a rendering
costs about 0.1 ms more than without it. A template that exceeded a limit is not rendered again.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.limited_process import TIMED_OUT, LimitedProcess
from icl.models.hf.template_worker import SECONDS

WORKER = Path(__file__).with_name("template_worker.py")


class TemplateRefusedError(Exception):
    """A template raised this error: it does not accept the conversation, or is broken."""


class TemplateLimitError(Exception):
    """A template exceeded a limit. The message completes a sentence: 'takes longer than 5 seconds'."""


class TemplateProcess(LimitedProcess):
    """A process that renders chat templates. It may be used by several threads."""

    def __init__(self) -> None:
        super().__init__(WORKER, "renders chat templates")
        self._lock = threading.Lock()
        self._stopped: dict[str, str] = {}
        """Template -> the limit that it exceeded."""

    def render(
        self,
        template: str,
        conversation: Sequence[Mapping[str, Any]],
        answers: bool,
        values: Mapping[str, Any],
        day: date | None = None,
    ) -> str:
        """The rendered conversation.

        Args:
            template: The chat template.
            conversation: Messages as processors take them, as JSON.
            answers: Whether the text ends where the answer begins.
            values: Values of the template's variables by name: special tokens and arguments.
            day: The date that the template may write. None: today's.

        Raises:
            TemplateRefusedError: The template raises an error.
            TemplateLimitError: The template exceeds a limit.
            ModelError: The process does not start.
        """
        request = {"template": template, "conversation": conversation, "answers": answers, "values": values}
        request["day"] = (day or date.today()).isoformat()
        return str(self._answer(template, request)["text"])

    def arguments(self, template: str) -> tuple[str, ...]:
        """The names that a template reads from its arguments, special tokens included. Raises as `render`."""
        return tuple(self._answer(template, {"template": template})["arguments"])

    def _answer(self, template: str, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if template in self._stopped:
                raise TemplateLimitError(self._stopped[template])
            try:
                answer = self.ask(request)
            except RuntimeError as error:
                raise ModelError(str(error)) from error
            if isinstance(answer, int):
                late = f"takes longer than {SECONDS} seconds"
                answer = {
                    "limit": late if answer == TIMED_OUT else f"ends the process that renders it (status {answer})"
                }
            if "limit" in answer:
                self._stopped[template] = answer["limit"]
                raise TemplateLimitError(answer["limit"])
        if "error" in answer:
            raise TemplateRefusedError(answer["error"])
        return answer


PROCESS = TemplateProcess()
"""The process of all checkpoints."""
