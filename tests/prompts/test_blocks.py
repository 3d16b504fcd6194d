"""Order, delimiters and place of the instruction, word for word."""

from typing import Any

import pytest

from icl.registry import build
from icl.types import Context, Demo, Example, Prompt
from prompts.conformance import sample_contexts


def _context(shots: int = 1) -> Context:
    whole = next(c for c in sample_contexts() if len(c.demos) == 4 and len(c.query.images) == 1)
    demos = tuple(
        Demo(Example(f"e{i}", whole.demos[0].example.images, f"q{i}?", (f"a{i}",)), 0.5, i) for i in range(shots)
    )
    return Context(Example("q", whole.query.images, "qq?", ()).query, demos, whole.key)


def _text(node: Any, context: Context) -> str:
    prompt: Prompt = build("composer", node).compose(context)
    (turn,) = prompt.turns
    return "".join("<>" if part.text is None else part.text for part in turn.parts)


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("pqa", "<>[REQUEST] q0?\n[RESPONSE] a0\n\n<>[REQUEST] qq?\n[RESPONSE]"),
        ("qpa", "[REQUEST] q0?\n<>\n[RESPONSE] a0\n\n[REQUEST] qq?\n<>\n[RESPONSE]"),
        ("qap", "[REQUEST] q0?\n[RESPONSE] a0\n<>\n\n[REQUEST] qq?\n<>\n[RESPONSE]"),
        ("paq", "<>[RESPONSE] a0\n[REQUEST] q0?\n\n<>[REQUEST] qq?\n[RESPONSE]"),
        ("apq", "[RESPONSE] a0\n<>\n[REQUEST] q0?\n\n<>[REQUEST] qq?\n[RESPONSE]"),
        ("aqp", "[RESPONSE] a0\n[REQUEST] q0?\n<>\n\n[REQUEST] qq?\n<>\n[RESPONSE]"),
    ],
)
def test_every_inner_order(order: str, text: str) -> None:
    assert _text({"name": "blocks", "order": order}, _context()) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("head", "Do.\n<>q0?\n= a0\n--<>qq?\n="),
        ("tail", "<>q0?\n= a0\n--<>qq?\nDo.\n="),
        ("within", "Do.\n<>q0?\n= a0\n--Do.\n<>qq?\n="),
    ],
)
def test_the_instruction_has_three_places_and_delimiters_are_parameters(at: str, text: str) -> None:
    node = {"name": "blocks", "instruction_text": "Do.", "instruction_at": at}
    assert _text({**node, "request": "", "response": "= ", "delimiter": "--"}, _context()) == text


@pytest.mark.parametrize("at", ["head", "tail", "within"])
def test_the_instruction_is_one_span_at_any_number_of_shots(at: str) -> None:
    for shots in (0, 1, 3):
        prompt = build("composer", {"name": "blocks", "instruction": "short", "instruction_at": at}).compose(
            _context(shots)
        )
        names = [part.name for part in prompt.parts() if part.text == "Answer with one word."]
        assert names == ["instruction"] + [""] * (shots if at == "within" else 0)
