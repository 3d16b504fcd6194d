"""Prompts from a template: a Jinja file of one's own, or one of those in `prompts/templates`.

    {% for demo in demos %}
    {{ demo.images | join }}{{ demo.question }}
    Answer: {{ demo.answer }}
    {% endfor %}
    {{ query.images | join }}{{ query.question }}
    Answer:

A template may use `demos` and `query` (each with `images`, `question`, `options`; a demonstration also `answer` and
`index`, its place from 0; an image has a `number` that runs through the prompt), `instruction`, and `user` and
`assistant`, which begin a turn of that role. It sees marks in the place of the pieces, never their content, so nothing
in the data is read as a template, and every piece is a named span of the prompt. Templates run in Jinja's sandbox.

A template must show every image, question and answer once, and end in a user's turn. This is tried when the
experiment is read, and checked on every prompt.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl import spans
from icl.errors import ConfigError
from icl.images import Image
from icl.registry import component
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Query
from prompts import parameter_files as files
from prompts import pieces
from prompts.markup import Mark, prompt_of, role_mark
from prompts.pieces import Level

if TYPE_CHECKING:
    from jinja2 import Template as Compiled

FOLDER = Path(__file__).parents[1] / "templates"
KNOWN = ("demos", "query", "instruction", "user", "assistant")


@dataclass(frozen=True)
class Asked:
    """What a template sees of the query."""

    images: tuple[Mark, ...]
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Shown(Asked):
    """What a template sees of a demonstration. index: its place, from 0."""

    answer: str
    index: int


@component("composer", "template")
@dataclass(frozen=True)
class Template:
    """A prompt written by a Jinja template: vl_icl, mmicl, otter, link_context, or a file of one's own."""

    path: str = "vl_icl"  # a name of prompts/templates, or a file
    instruction: Level = "none"  # what `instruction` says
    instruction_text: str | None = None  # an instruction in one's own words instead
    code: str = ""  # digest of the template, filled in

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "template")
        name = self.path if "." in Path(self.path).name else f"{self.path}.j2"
        text = files.read(files.find(name, "template", FOLDER), "template")
        files.pin(self, text, f"template '{self.path}'")
        object.__setattr__(self, "_source", text)
        for context in _trials():
            self.compose(context)

    def compose(self, context: Context) -> Prompt:
        from jinja2 import TemplateError

        told = pieces.instruction(self.instruction, self.instruction_text)[:1]
        try:
            written = self._compiled.render(_seen(context, bool(told)))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ConfigError(f"template '{self.path}', query '{context.query.id}': {error}.") from error
        wanted = {part.name: part for part in (*told, *_parts(context))}
        return prompt_of(written, wanted, context, f"template '{self.path}'")

    @cached_property
    def _compiled(self) -> "Compiled":
        """Raises ConfigError for what Jinja cannot read and for names that no template has."""
        from jinja2 import StrictUndefined, TemplateError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        from icl.errors import did_you_mean

        source: str = vars(self)["_source"]
        sandbox = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        try:
            unknown = sorted(meta.find_undeclared_variables(sandbox.parse(source)) - {*KNOWN, *sandbox.globals})
            compiled = sandbox.from_string(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ConfigError(f"template '{self.path}'{f', line {line}' if line else ''}: {error}.") from error
        if unknown:
            near = did_you_mean(unknown[0], KNOWN)
            raise ConfigError(
                f"template '{self.path}': nothing is called '{unknown[0]}'.{near} There are {', '.join(KNOWN)}."
            )
        return compiled


def _seen(context: Context, instruction: bool) -> Mapping[str, Any]:
    numbers = itertools.count()
    return {
        "demos": [_item(demo, name, numbers, i) for i, (name, demo) in enumerate(pieces.named(context))],
        "query": _item(context.query, spans.QUERY, numbers),
        "instruction": Mark.of(spans.INSTRUCTION) if instruction else "",
        "user": role_mark("user"),
        "assistant": role_mark("assistant"),
    }


def _item(of: Demo | Query, name: str, numbers: Iterator[int], index: int = 0) -> Asked:
    item = of.example if isinstance(of, Demo) else of
    images = tuple(Mark.of(spans.image(name, j), next(numbers)) for j in range(len(item.images)))
    question = Mark.of(spans.question(name)) if item.question else ""
    if isinstance(of, Demo):
        return Shown(images, question, item.options, Mark.of(spans.answer(name)), index)
    return Asked(images, question, item.options)


def _parts(context: Context) -> Iterator[Part]:
    """Every piece that the prompt must show."""
    for name, demo in pieces.named(context):
        yield from (*pieces.images(demo, name), *pieces.question(demo, name), pieces.answer(demo, name))
    yield from (*pieces.images(context.query, spans.QUERY), *pieces.question(context.query, spans.QUERY))


def _trials() -> Iterator[Context]:
    """Contexts that every template must be able to write: none, one and two demonstrations of one image each."""
    demos = []
    for i in range(2):
        shown = Image.from_source(_never, f"trial {i}")
        demos.append(Demo(Example(f"trial-{i}", (shown,), f"question {i}?", (f"answer {i}",), ("a", "b")), 0.5, i))
    query = Query("trial", (Image.from_source(_never, "trial"),), "question?", ("a", "b"))
    yield from (Context(query, tuple(demos[:shots]), StreamKey()) for shots in range(3))


def _never() -> Any:
    raise AssertionError("a trial's image is not opened")
