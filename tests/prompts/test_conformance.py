"""Every registered orderer, transform and composer passes the public checks."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_args, get_type_hints

import pytest

from icl.registry import build, entries, resolve
from icl.streams import StreamKey
from icl.types import Context, Part, Prompt, Turn
from prompts.composers.template import FOLDER
from prompts.composers.turns import Chat
from prompts.conformance import check_composer, check_orderer, check_transform

OPTIONS: list[dict[str, Any]] = [
    {},
    {"first": "text"},
    {"instruction": "short"},
    {"instruction": "long", "first": "text"},
    {"instruction_text": "Look, then say."},
    {"delimiter": " | "},
]


CHOICES = ("how", "where", "start", "place", "order", "instruction_at", "first")
"""Parameters whose every value is tried."""


def _variants(kind: str, name: str) -> list[dict[str, Any]]:
    """The component with its defaults, and with each value of each of its CHOICES."""
    hints = get_type_hints(resolve(kind, name))
    tried = [{key: value} for key in CHOICES if key in hints for value in get_args(hints[key])]
    if name == "template":
        tried = [{"path": path.stem, "instruction": "short"} for path in sorted(FOLDER.glob("*.j2"))]
    return [{"name": name, **parameters} for parameters in ({}, *tried)]


def _nodes(kind: str) -> list[dict[str, Any]]:
    return [node for name in entries(kind) for node in _variants(kind, name)]


@pytest.mark.parametrize("node", _nodes("orderer"), ids=str)
def test_every_orderer_passes_its_check(node: dict[str, Any]) -> None:
    check_orderer(build("orderer", node))


MORE: list[dict[str, Any]] = [
    {"name": "synonyms", "words": {"yes": "aye", "no": "nay"}},
    {"name": "noisy_labels", "share": 1},
    {"name": "images", "how": "blank", "where": "all"},
    {"name": "captions", "where": "all", "text": "({caption}) "},
    {"name": "frame_grid", "shuffled": True},
]


@pytest.mark.parametrize("node", [*_nodes("transform"), *MORE], ids=str)
def test_every_transform_passes_its_check(node: dict[str, Any]) -> None:
    check_transform(build("transform", node))


@pytest.mark.parametrize("name", entries("composer"))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_composer_passes_its_check(name: str, options: dict[str, Any]) -> None:
    if options.keys() <= {f.name for f in fields(resolve("composer", name))}:
        check_composer(build("composer", {"name": name, **options}))


@pytest.mark.parametrize("node", _nodes("composer"), ids=str)
def test_every_variant_of_a_composer_passes_its_check(node: dict[str, Any]) -> None:
    check_composer(build("composer", node))


def _part(name: str, /, **changes: Any) -> Callable[[Prompt], Prompt]:
    """The prompt with the parts whose names begin so changed."""
    return lambda prompt: prompt.map(lambda part: replace(part, **changes) if part.name.startswith(name) else part)


WRONG: dict[str, Callable[[Prompt], Prompt]] = {
    "cut": _part("query.question", content="¿Qu"),
    "image": lambda prompt: prompt.without_images("demos"),
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
        ("image", r"demo\[0\]\.image\[0\] is not the image"),
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

    needs: ClassVar[frozenset[str]] = frozenset()

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


@dataclass(frozen=True)
class _Bad:
    """A transform with one thing wrong."""

    wrong: str

    needs: ClassVar[frozenset[str]] = frozenset()

    def transform(self, context: Context) -> Context:
        if not context.demos:
            return context
        first, *others = context.demos
        answer = first.example.answer
        marked = replace(context, provenance=(*context.provenance, f"bad: {answer if self.wrong == 'reads' else ''}"))
        if self.wrong == "loses":
            return replace(marked, demos=tuple(others))
        if self.wrong == "query":
            return replace(marked, query=replace(context.query, question="other"))
        if self.wrong == "place":
            return replace(marked, demos=(replace(first, example=replace(first.example, question="!")), *others))
        if self.wrong == "silent":
            demos = tuple(replace(d, example=replace(d.example, question="!")) for d in context.demos)
            return replace(context, demos=demos)
        return marked


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("loses", "lost, moved or rescored"),
        ("query", "query's question was changed"),
        ("place", "depends on the order of demonstrations"),
        ("silent", "leaves no mark"),
        ("reads", "depends on the answers, and 'labels' is not among its needs"),
    ],
)
def test_each_wrong_transform_is_named(wrong: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_transform(_Bad(wrong))
