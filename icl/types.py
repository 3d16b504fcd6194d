"""The vocabulary: plain frozen data that the components hand to one another.

    Example/Query -> Demo, Context -> Prompt -> Generation -> Sample

A `Query` has no gold: a component that must not see it cannot. A `Prompt` is turns of named parts; the names
(`icl.spans`: `demo[2].answer`, `query.image[0]`) are its spans, which edits, budgets and perturbations address.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from icl import spans
from icl.edits import Edit
from icl.images import Image
from icl.streams import StreamKey

Role = Literal["system", "user", "assistant"]
Json = Any


@dataclass(frozen=True)
class Query:
    """A question about images, without its gold. `meta` holds public facts only (question type, split)."""

    id: str
    images: tuple[Image, ...]
    question: str
    options: tuple[str, ...] = ()
    domain: str | None = None
    group: str | None = None
    meta: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A query with its gold: a member of a support pool, or a test item in the hands of the runner and the metrics.

    answers: accepted answers, the canonical one first. label: the class, where there are classes. group: what belongs
    together for clustered intervals (questions about one image). secret: facts that would give the gold away.
    """

    id: str
    images: tuple[Image, ...]
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    label: str | None = None
    domain: str | None = None
    group: str | None = None
    meta: Mapping[str, Json] = field(default_factory=dict)
    secret: Mapping[str, Json] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return self.answers[0]

    @property
    def class_name(self) -> str:
        """The label, or the first answer if the example has no label."""
        return self.answer if self.label is None else self.label

    @cached_property
    def query(self) -> Query:
        return Query(self.id, self.images, self.question, self.options, self.domain, self.group, self.meta)


@dataclass(frozen=True)
class RetrievedExample:
    """One retrieved member of a pool. Higher is nearer; a retriever without a similarity gives 0.

    mark: what the sample's record should say of the choice ('dpp: filled by relevance'), or ''.
    """

    id: str
    score: float = 0.0
    mark: str = ""


@dataclass(frozen=True)
class Demo:
    """A demonstration in its place. rank: 0 is the retriever's best."""

    example: Example
    score: float = 0.0
    rank: int = 0


@dataclass(frozen=True)
class Context:
    """A query and its demonstrations in the order in which they will be shown. provenance: marks of what was done.

    renamed: answer of the task -> what the demonstrations call it (flipped labels, symbols). rescored: the query's gold
    and options go by the new names too; otherwise they stay, and following the demonstrations is wrong.
    """

    query: Query
    demos: tuple[Demo, ...] = ()
    key: StreamKey = StreamKey()
    provenance: tuple[str, ...] = ()
    label_map: Mapping[str, str] = field(default_factory=dict, hash=False)
    relabels_gold: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a turn: text or an image. name: its span, or '' for glue between spans."""

    content: str | Image
    name: str = ""

    @property
    def image(self) -> Image | None:
        return self.content if isinstance(self.content, Image) else None

    @property
    def text(self) -> str | None:
        return self.content if isinstance(self.content, str) else None

    @property
    def demo(self) -> int | None:
        """The place of the demonstration that this is a piece of; None where it is of none."""
        return spans.demo_index(self.name)

    def within(self, where: "Where") -> bool:
        """Whether it is a piece of the query, or of a demonstration."""
        return where == "all" or (spans.is_query(self.name) if where == "query" else self.demo is not None)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]


Where = Literal["all", "query", "demos"]
IMAGE_PLACEHOLDER = "<image>"
"""What stands for an image in `Prompt.text`."""


@dataclass(frozen=True)
class Prompt:
    """An interleaved prompt, before any model's template. key: whose random streams its edits draw from.

    paired_prompt: another sample's prompt, written alike, for strategies that read one; no part of what this prompt is.
    """

    turns: tuple[Turn, ...]
    key: StreamKey = StreamKey()
    paired_prompt: "Prompt | None" = field(default=None, compare=False, repr=False)

    def parts(self) -> Iterator[Part]:
        return (part for turn in self.turns for part in turn.parts)

    @cached_property
    def images(self) -> tuple[Image, ...]:
        return tuple(part.image for part in self.parts() if part.image is not None)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """name -> (turn, part) of every named part."""
        return {
            part.name: (t, p) for t, turn in enumerate(self.turns) for p, part in enumerate(turn.parts) if part.name
        }

    @cached_property
    def text(self) -> str:
        """All text in order, a mark for each image: for records and people, not for models."""
        return "\n".join(
            f"[{turn.role}] "
            + "".join(part.text if part.text is not None else IMAGE_PLACEHOLDER for part in turn.parts)
            for turn in self.turns
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of roles, texts and image digests: equal digests are one prefill."""
        content = [
            [
                turn.role,
                [[part.text, None] if part.image is None else [None, part.image.digest] for part in turn.parts],
            ]
            for turn in self.turns
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def map(self, change: Callable[[Part], Part | None]) -> "Prompt":
        """Each part replaced by `change(part)`; None drops it, and a turn that loses all its parts."""
        turns = (replace(turn, parts=tuple(p for p in map(change, turn.parts) if p is not None)) for turn in self.turns)
        return replace(self, turns=tuple(turn for turn in turns if turn.parts))

    def edit(self, images: Edit, where: Where = "all") -> "Prompt":
        """The same prompt with an edit on its images: all, the query's alone, or the demonstrations' alone."""

        def change(part: Part) -> Part:
            if part.image is None or not part.within(where):
                return part
            return replace(part, content=part.image.edit(images.bind(self.key, spans.random_factor(part.name))))

        return self.map(change)

    def without_images(self, where: Where = "all") -> "Prompt":
        return self.map(lambda part: None if part.image is not None and part.within(where) else part)


@dataclass(frozen=True)
class Usage:
    """What one answer cost. Work that several arms shared is counted in the run's cost record instead."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    forwards: int = 0


@dataclass(frozen=True)
class Generation:
    """finish: 'stop' or 'length'. trace: numbers a strategy's steps left behind (name -> one value a step).

    tokens: without the one that ended it. option_scores: option -> log-probability, where options were scored.
    steps: what each branch said at every step, where that was asked for (`decoding.engine.trace.compact`).
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: Literal["stop", "length"] = "stop"
    usage: Usage = Usage()
    trace: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    option_scores: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One scored query in one cell: a line of the store. Everything in it is JSON.

    cell: digest of the resolved cell. question: as the prompt shows it. demos: [id, score, answer] in prompt order;
    ranks: of each, 0 the best retrieved. scores: metric -> value in [0, 1]. baselines: what the same demonstrations say
    without a model: baseline -> metric -> value. image_of: whose each image is, the place of its demonstration or
    -1 for the query's. renamed: where answers were renamed, the right one before and after. steps: what each branch
    said at every step, where the config asks for it. failed: the reason, where there is no output.
    """

    cell: str
    query: str
    seed: int
    group: str | None = None
    question: str = ""
    gold: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    demos: tuple[tuple[str, float, str], ...] = ()
    ranks: tuple[int, ...] = ()
    dropped: int = 0
    prompt: str = ""
    prompt_digest: str = ""
    images: tuple[str, ...] = ()
    image_of: tuple[int, ...] = ()
    gold_before_after: tuple[str, ...] = ()
    output: str = ""
    finish: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    option_scores: Mapping[str, float] = field(default_factory=dict)
    trace: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: Mapping[str, Json] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    failed: str | None = None
