"""Renders chat templates of checkpoints in another process with limits on time, memory and output.

One process serves all checkpoints of this one. It starts at the first rendering, in about half a second; a rendering
costs about 0.1 ms more than without it. A template that exceeded a limit is not rendered again.

The process also finds the names of arguments that a chat template reads, and `model.template` is checked against them:
transformers and vLLM ignore a name that the template does not read, so a misspelt one would change nothing.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.limited_process import TIMED_OUT, LimitedProcess
from icl.models import check_read, hf
from icl.models.hf import Message, as_strings, typed_turn
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


PROBES: tuple[list[Message], ...] = (
    [typed_turn("user", None, "q")],
    [typed_turn("user", None, "q"), typed_turn("assistant", "a"), typed_turn("user", None, "q")],
    [typed_turn("system", "s"), typed_turn("user", "q")],
    [typed_turn("user", None, None, "q")],
)
"""Conversations with the turns that composers write. An argument without effect on them has none in a run."""


def argument_names(renderer: "hf.PromptRenderer") -> tuple[str, ...]:
    """The names that a config can set. Special tokens are the tokenizer's. Raises ModelError."""
    try:
        names = PROCESS.arguments(renderer.template)
    except TemplateRefusedError as error:
        raise ModelError(f"{renderer.name}: the chat template cannot be read: {error}.") from error
    tokens = {*getattr(renderer.tokenizer, "SPECIAL_TOKENS_ATTRIBUTES", ()), *renderer.tokenizer.special_tokens_map}
    return tuple(name for name in names if name not in tokens)


def check_arguments(renderer: "hf.PromptRenderer") -> None:
    """Raise ModelError if the template does not read an argument, or refuses its value."""
    try:
        json.dumps(renderer.arguments)
    except TypeError as error:
        raise ModelError(
            f"model.template: {error}. An argument is a text, a number, true, false, or a list or mapping of these."
        ) from error
    check_read(renderer.arguments, argument_names(renderer), "model.template", f"the chat template of {renderer.name}")
    for probe in PROBES:
        _, refusal = _outcome(renderer, probe, renderer.arguments)
        if refusal and not _outcome(renderer, probe, {})[1]:
            written = ", ".join(f"{name}: {value!r}" for name, value in renderer.arguments.items())
            raise ModelError(f"model.template: the chat template of {renderer.name} refuses {{{written}}}: {refusal}")


def argument_notes(renderer: "hf.PromptRenderer") -> Iterator[str]:
    """A sentence for each argument without which the template writes the same."""
    for name, value in renderer.arguments.items():
        without = {other: its_value for other, its_value in renderer.arguments.items() if other != name}
        if all(_outcome(renderer, probe, renderer.arguments) == _outcome(renderer, probe, without) for probe in PROBES):
            yield f"template: {name}: {value!r} has no effect, the chat template writes the same prompts without it"


def _outcome(renderer: "hf.PromptRenderer", probe: list[Message], arguments: Mapping[str, Any]) -> tuple[str, str]:
    """What the template writes of a conversation under some arguments, and why it refuses; one of them is ''."""
    if renderer.text_only:
        texts = ([item for item in turn["content"] if item["type"] == "text"] for turn in probe)
        probe = as_strings([{**turn, "content": content} for turn, content in zip(probe, texts, strict=True)])
    try:
        return renderer.render_limited(probe, answers=True, arguments=arguments), ""
    except TemplateRefusedError as error:
        return "", str(error)
