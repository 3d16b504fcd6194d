"""Prompts from a Jinja template: a user's file, or one of `prompts/templates`.

    {% for demo in demos %}
    {{ demo.images | join }}{{ demo.question }}
    Answer: {{ demo.answer }}
    {% endfor %}
    {{ query.images | join }}{{ query.question }}
    Answer:

Variables of a template:

- `demos` and `query`, each with `images`, `question` and `options`. A demonstration also has `answer` and `index`, from
  0. An image has a `number` that counts through the prompt.
- `instruction`.
- `system`, `user` and `assistant`, which begin a turn of that role. A system turn stands before all others.

The template receives placeholders of the pieces, not their content. So nothing in the data is read as template code,
and every piece is a named span of the prompt. Templates run in Jinja's sandbox.

A template must contain every image, question and answer once, and end in a user turn. Each template is tested when the
experiment is read, and each prompt is checked.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from icl import ConfigError, Image, StreamKey, component, did_you_mean, jinja2, spans
from icl import parameter_files as files
from icl.types import Context, Demo, Example, Part, Query, Role, Turn
from prompts import BaseComposer, Level, pieces

FOLDER = Path(__file__).parents[1] / "templates"
ROLES = ("system", "user", "assistant")
VARIABLES = ("demos", "query", "instruction", *ROLES)


# Text with placeholders for the pieces of a prompt, and its conversion to a prompt.
#
# A placeholder is a piece's name between two NUL characters, which no text contains. White space around the
# placeholder of a turn belongs to no turn.


class Mark(str):
    """The placeholder of a piece. number: index of an image within the prompt, from 0."""

    __slots__ = ("number",)
    number: int

    @classmethod
    def of(cls, name: str, number: int = 0) -> "Mark":
        mark = cls(f"{NUL}{name}{NUL}")
        mark.number = number
        return mark


@dataclass(frozen=True)
class QueryPieces:
    """The query as a template sees it."""

    images: tuple[Mark, ...]
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class DemoPieces(QueryPieces):
    """A demonstration as a template sees it. index: its place, from 0."""

    answer: str
    index: int


@component("composer", "template")
@dataclass(frozen=True)
class Template(BaseComposer):
    """A composer that renders a Jinja template: vl_icl, mmicl, otter, link_context, or a user's file."""

    path: str = "vl_icl"  # name in prompts/templates, or a file
    instruction: Level = "none"  # length of the standard instruction, the variable `instruction`
    instruction_text: str | None = None  # custom instruction instead
    code: str = ""  # digest of the template, set automatically

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "template")
        name = self.path if "." in Path(self.path).name else f"{self.path}.j2"
        text = files.read(files.find(name, "template", FOLDER), "template")
        files.pin(self, text, f"template '{self.path}'")
        object.__setattr__(self, "_source", text)
        for context in _trials():
            self.compose(context)

    def turns(self, context: Context) -> tuple[Turn, ...]:
        instruction = pieces.instruction(self.instruction, self.instruction_text)[:1]
        try:
            text = self._compiled.render(_variables(context, bool(instruction)))
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ConfigError(f"template '{self.path}', query '{context.query.id}': {error}.") from error
        parts = {part.name: part for part in (*instruction, *_parts(context))}
        return turns_of(text, parts, f"template '{self.path}', query '{context.query.id}'")

    @cached_property
    def _compiled(self) -> "jinja2.Template":
        """The compiled template. Raises ConfigError for syntax errors and unknown variables."""
        source: str = vars(self)["_source"]
        sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        try:
            unknown = sorted(
                jinja2.meta.find_undeclared_variables(sandbox.parse(source)) - {*VARIABLES, *sandbox.globals}
            )
            compiled = sandbox.from_string(source)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ConfigError(f"template '{self.path}'{f', line {line}' if line else ''}: {error}.") from error
        if unknown:
            near = did_you_mean(unknown[0], VARIABLES)
            raise ConfigError(
                f"template '{self.path}': no variable is named '{unknown[0]}'.{near} There are {', '.join(VARIABLES)}."
            )
        return compiled


def _variables(context: Context, instruction: bool) -> Mapping[str, Any]:
    numbers = itertools.count()
    return {
        "demos": [_pieces(demo, name, numbers, i) for i, (name, demo) in enumerate(pieces.named(context))],
        "query": _pieces(context.query, spans.QUERY, numbers),
        "instruction": Mark.of(spans.INSTRUCTION) if instruction else "",
        **{role: role_mark(role) for role in ROLES},
    }


def _pieces(of: Demo | Query, name: str, numbers: Iterator[int], index: int = 0) -> QueryPieces:
    item = of.example if isinstance(of, Demo) else of
    images = tuple(Mark.of(spans.image(name, j), next(numbers)) for j in range(len(item.images)))
    question = Mark.of(spans.question(name)) if item.question else ""
    if isinstance(of, Demo):
        return DemoPieces(images, question, item.options, Mark.of(spans.answer(name)), index)
    return QueryPieces(images, question, item.options)


def _parts(context: Context) -> Iterator[Part]:
    """Every piece that the prompt must contain."""
    for name, demo in pieces.named(context):
        yield from (*pieces.images(demo, name), *pieces.question(demo, name), pieces.answer(demo, name))
    yield from (*pieces.images(context.query, spans.QUERY), *pieces.question(context.query, spans.QUERY))


def _trials() -> Iterator[Context]:
    """Contexts that every template must support: zero, one and two demonstrations with one image each."""
    demos = []
    for i in range(2):
        image = Image.from_source(_never, f"trial {i}")
        demos.append(Demo(Example(f"trial-{i}", (image,), f"question {i}?", (f"answer {i}",), ("a", "b")), 0.5, i))
    query = Query("trial", (Image.from_source(_never, "trial"),), "question?", ("a", "b"))
    yield from (Context(query, tuple(demos[:shots]), StreamKey()) for shots in range(3))


def _never() -> Any:
    raise AssertionError("images are not opened in a trial render")


NUL = "\x00"


def role_mark(role: str) -> Mark:
    """The placeholder that begins a turn."""
    return Mark.of(f"@{role}")


def turns_of(text: str, parts: Mapping[str, Part], at: str) -> tuple[Turn, ...]:
    """The turns of a marked text. Raises ConfigError unless they have each part once and end with a user turn."""
    roles = "|".join(ROLES)
    pieces = re.split(f"{NUL}([^{NUL}]*){NUL}", re.sub(rf"\s*({NUL}@(?:{roles}){NUL})\s*", r"\1", text))
    turns: list[tuple[Role, list[Part]]] = [("user", [])]
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            if NUL in piece:
                raise ConfigError(f"{at}: a filter changed a piece. Images, questions and answers must stay unchanged.")
            if piece:
                turns[-1][1].append(Part(piece, spans.SYSTEM if turns[-1] == ("system", []) else ""))
        elif piece.removeprefix("@") in ROLES and piece.startswith("@"):
            turns.append((cast(Role, piece[1:]), []))
        elif piece in parts:
            turns[-1][1].append(parts[piece])
        else:
            raise ConfigError(f"{at}: a filter changed a piece into '{piece}'. Pieces must stay unchanged.")
    _check(Counter(piece for piece in pieces[1::2]), parts, at)
    filled = tuple(Turn(role, tuple(parts)) for role, parts in turns if parts)
    if not filled or filled[-1].role != "user":
        raise ConfigError(
            f"{at}: the prompt ends in the assistant's turn, so the model is not asked anything. "
            "End the prompt with the query."
        )
    if any(turn.role == "system" for turn in filled[1:]):
        raise ConfigError(f"{at}: a system turn stands before all others. Move {{{{ system }}}} to the start.")
    return filled


def _check(counts: Counter[str], parts: Mapping[str, Part], at: str) -> None:
    missing = [name for name in parts if not counts[name]]
    if missing:
        raise ConfigError(f"{at}: it lacks {', '.join(missing[:3])}. A prompt must contain every piece of its context.")
    twice = [name for name in parts if counts[name] > 1]
    if twice:
        raise ConfigError(
            f"{at}: it contains {', '.join(twice[:3])} more than once. A prompt must contain each piece once."
        )
