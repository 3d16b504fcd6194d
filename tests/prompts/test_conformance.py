"""Every registered orderer and composer keeps its promises; a new one is covered by being registered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from icl.registry import build, entries
from icl.streams import StreamKey
from icl.types import Context, Part, Prompt, Turn
from prompts.composers.chat import Chat
from prompts.conformance import check_composer, check_orderer

OPTIONS: list[dict[str, Any]] = [
    {},
    {"first": "text"},
    {"instruction": "short"},
    {"instruction": "long", "first": "text"},
    {"instruction_text": "Look, then say."},
    {"delimiter": " | "},
]


@pytest.mark.parametrize("name", entries("orderer"))
def test_every_orderer_keeps_its_promises(name: str) -> None:
    check_orderer(build("orderer", name))


@pytest.mark.parametrize("name", entries("composer"))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_composer_keeps_its_promises(name: str, options: dict[str, Any]) -> None:
    check_composer(build("composer", {"name": name, **options}))


def _part(name: str, /, **changes: Any) -> Callable[[Prompt], Prompt]:
    """The prompt with the parts whose names begin so changed."""
    return lambda prompt: prompt.map(lambda part: replace(part, **changes) if part.name.startswith(name) else part)


WRONG: dict[str, Callable[[Prompt], Prompt]] = {
    "cut": _part("query.question", content="¿Qu"),
    "picture": lambda prompt: prompt.without_pictures("demos"),
    "other": _part("demo[1].answer", content="thing 0"),
    "names": _part("demo[0].question", name="query.question"),
    "strange": _part("demo[0].answer", name="demo[0].reason"),
    "last": lambda prompt: replace(prompt, turns=(prompt.turns[-1], *prompt.turns[:-1])),
    "answered": lambda prompt: replace(prompt, turns=(*prompt.turns, Turn("assistant", (Part("So: "),)))),
    "key": lambda prompt: replace(prompt, key=StreamKey(99, "q")),
}


@dataclass(frozen=True)
class _Changed:
    """`chat` with one thing wrong."""

    wrong: str

    def compose(self, context: Context) -> Prompt:
        return WRONG[self.wrong](Chat().compose(context))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("cut", r"query\.question is '¿Qu', not"),
        ("picture", r"demo\[0\]\.picture\[0\] is not the picture"),
        ("other", r"demo\[1\]\.answer is 'thing 0', not 'thing 1'"),
        ("names", "stand twice"),
        ("strange", "not names of parts"),
        ("last", "the pieces stand in the order"),
        ("answered", "the last turn is the assistant's"),
        ("key", "stream key"),
    ],
)
def test_each_wrong_prompt_is_named(wrong: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_composer(_Changed(wrong))


@dataclass(frozen=True)
class _Misplaced:
    wrong: str

    needs = frozenset[str]()

    def order(self, context: Context) -> Context:
        if self.wrong == "lost":
            return replace(context, demos=context.demos[1:])
        if self.wrong == "as it comes":
            return context
        return replace(context, query=replace(context.query, question="other"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("lost", "not the same"), ("as it comes", "more than the ranks"), ("query", "query was changed")],
)
def test_each_wrong_order_is_named(wrong: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_orderer(_Misplaced(wrong))
