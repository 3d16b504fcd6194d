"""Arguments of a checkpoint's chat template (`model.template`): the names that it reads, and checks of what a config
sets.

transformers and vLLM ignore a name that the template does not read, so a misspelt one would change nothing.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.models import check_read
from icl.models.hf import PROCESS, Message, TemplateRefusedError, as_strings, typed_turn

if TYPE_CHECKING:
    from icl.models.hf.rendering import PromptRenderer

PROBES: tuple[list[Message], ...] = (
    [typed_turn("user", None, "q")],
    [typed_turn("user", None, "q"), typed_turn("assistant", "a"), typed_turn("user", None, "q")],
    [typed_turn("system", "s"), typed_turn("user", "q")],
    [typed_turn("user", None, None, "q")],
)
"""Conversations with the turns that composers write. An argument without effect on them has none in a run."""


def argument_names(renderer: "PromptRenderer") -> tuple[str, ...]:
    """The names that a config can set. Special tokens are the tokenizer's. Raises ModelError."""
    try:
        names = PROCESS.arguments(renderer.template)
    except TemplateRefusedError as error:
        raise ModelError(f"{renderer.name}: the chat template cannot be read: {error}.") from error
    tokens = {*getattr(renderer.tokenizer, "SPECIAL_TOKENS_ATTRIBUTES", ()), *renderer.tokenizer.special_tokens_map}
    return tuple(name for name in names if name not in tokens)


def check_arguments(renderer: "PromptRenderer") -> None:
    """Raise ModelError if the template does not read an argument, or refuses its value."""
    try:
        json.dumps(renderer.arguments)
    except TypeError as error:
        raise ModelError(
            f"model.template: {error}. An argument is a text, a number, true, false, or a list or mapping of these."
        ) from error
    check_read(renderer.arguments, argument_names(renderer), "model.template", f"the chat template of {renderer.name}")
    for probe in PROBES:
        refusal = _refusal(renderer, probe, renderer.arguments)
        if refusal and not _refusal(renderer, probe, {}):
            written = ", ".join(f"{name}: {value!r}" for name, value in renderer.arguments.items())
            raise ModelError(f"model.template: the chat template of {renderer.name} refuses {{{written}}}: {refusal}")


def argument_notes(renderer: "PromptRenderer") -> Iterator[str]:
    """A sentence for each argument without which the template writes the same."""
    for name, value in renderer.arguments.items():
        without = {other: its_value for other, its_value in renderer.arguments.items() if other != name}
        if all(_written(renderer, probe, renderer.arguments) == _written(renderer, probe, without) for probe in PROBES):
            yield f"template: {name}: {value!r} has no effect, the chat template writes the same prompts without it"


def _refusal(renderer: "PromptRenderer", probe: list[Message], arguments: Mapping[str, Any]) -> str:
    """Why the template refuses a conversation under some arguments, or ''."""
    try:
        _render(renderer, probe, arguments)
    except TemplateRefusedError as error:
        return str(error)
    return ""


def _written(renderer: "PromptRenderer", probe: list[Message], arguments: Mapping[str, Any]) -> str:
    """What the template writes under some arguments, or why it refuses."""
    try:
        return _render(renderer, probe, arguments)
    except TemplateRefusedError as error:
        return str(error)


def _render(renderer: "PromptRenderer", probe: list[Message], arguments: Mapping[str, Any]) -> str:
    if renderer.text_only:
        texts = ([item for item in turn["content"] if item["type"] == "text"] for turn in probe)
        probe = as_strings([{**turn, "content": content} for turn, content in zip(probe, texts, strict=True)])
    return renderer.render_limited(probe, answers=True, arguments=arguments)
