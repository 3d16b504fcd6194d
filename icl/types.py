"""Frozen dataclasses that components exchange.

    Example/Query -> Demo, Context -> Prompt -> Generation -> Sample

A `Query` has no gold answer, so a component that must not see the gold cannot. A `Prompt` consists of turns with named
parts. Edits, budgets and perturbations refer to the names (`icl.spans`: `demo[2].answer`, `query.image[0]`).
"""

import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from icl import Image, StreamKey, spans
from icl.edits import Edit
from icl.text.notebook_html import Thumbnails, box_html, dim_html, table_html, text_html

if TYPE_CHECKING:
    from icl.models.interventions import Intervention

Role = Literal["system", "user", "assistant"]
Json = Any


@dataclass(frozen=True)
class OptionListing:
    """How a question lists its options.

    Attributes:
        text: Format of the options after the question.
        between: Text between two options.
        letters: Whether each option has a letter. The letters are then the options and the answers.
    """

    text: str = "\nOptions: {options}."
    between: str = ", "
    letters: bool = False

    def write(self, question: str, lines: Sequence[str]) -> str:
        """The question with the lines of its options."""
        written = self.text.replace("{options}", self.between.join(lines))
        return f"{question}{written}" if question else written.lstrip()


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
    listing: OptionListing | None = None

    def _repr_html_(self) -> str:
        return _example_html(self)


@dataclass(frozen=True)
class Example:
    """A question about images with its gold answers: a member of a support pool or a test item.

    Attributes:
        answers: Accepted answers, the canonical one first.
        label: The class, for tasks with classes.
        group: Examples of one group, such as questions about one image, form a cluster of the intervals.
        meta: Public facts.
        secret: Facts that would reveal the gold.
        listing: How a prompt lists the options. None: it does not, or the question lists them already.
        columns: Columns of its row that are stored with samples. They may reveal the gold, so the query lacks them.
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
    listing: OptionListing | None = None
    columns: Mapping[str, Json] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return self.answers[0]

    @property
    def class_name(self) -> str:
        """The label, or the first answer if the example has no label."""
        return self.answer if self.label is None else self.label

    @property
    def stored_meta(self) -> dict[str, Json]:
        """The facts that are stored with its samples: `columns` and `meta`."""
        return {**self.columns, **self.meta}

    @cached_property
    def query(self) -> Query:
        return Query(
            self.id, self.images, self.question, self.options, self.domain, self.group, self.meta, self.listing
        )

    def _repr_html_(self) -> str:
        return _example_html(self)


@dataclass(frozen=True)
class RetrievedExample:
    """One retrieved member of a pool.

    Attributes:
        score: Similarity; higher is nearer. A retriever without a similarity gives 0.
        mark: Note on the choice for the sample's record, such as 'dpp: filled by relevance'.
    """

    id: str
    score: float = 0.0
    mark: str = ""


@dataclass(frozen=True)
class Demo:
    """A demonstration of a context. `rank` 0 is the retriever's best."""

    example: Example
    score: float = 0.0
    rank: int = 0


@dataclass(frozen=True)
class Context:
    """A query and its demonstrations in prompt order.

    Attributes:
        key: Random stream of the query.
        provenance: Notes on what retrievers, orderers and transforms did.
        label_map: Answer of the task -> its name in the demonstrations (flipped labels, symbols).
        relabels_gold: Whether the query's gold and options use the new names too. If not, an answer that follows the
            demonstrations is wrong.
    """

    query: Query
    demos: tuple[Demo, ...] = ()
    key: StreamKey = StreamKey()
    provenance: tuple[str, ...] = ()
    label_map: Mapping[str, str] = field(default_factory=dict, hash=False)
    relabels_gold: bool = False

    def _repr_html_(self) -> str:
        return _context_html(self)


@dataclass(frozen=True)
class Part:
    """A text or an image of a turn.

    Attributes:
        name: Its span, or '' for text between spans.
        fills_image_slot: Whether the text takes the place of an image, within the marks that a chat template writes
            around images.
    """

    content: str | Image
    name: str = ""
    fills_image_slot: bool = False

    @property
    def image(self) -> Image | None:
        return self.content if isinstance(self.content, Image) else None

    @property
    def text(self) -> str | None:
        return self.content if isinstance(self.content, str) else None

    @property
    def demo(self) -> int | None:
        """The index of the demonstration that this part belongs to, or None."""
        return spans.demo_index(self.name)

    def within(self, where: "Where") -> bool:
        """Whether the part belongs to the query or to a demonstration, as `where` asks."""
        return where == "all" or (spans.is_query(self.name) if where == "query" else self.demo is not None)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]


Where = Literal["all", "query", "demos"]
EmptyBlocks = Literal["as_template", "everywhere", "nowhere"]
"""Which answers of demonstrations and query follow an empty reasoning block: as the template has it, all, or none."""

IMAGE_PLACEHOLDER = "<image>"
"""Placeholder of an image in `Prompt.text`."""


@dataclass(frozen=True)
class Prompt:
    """An interleaved prompt, before a model's chat template is applied.

    Attributes:
        key: Random stream that image edits draw from.
        paired_prompt: The prompt of another sample in the same format, for strategies that read one. It is not part of
            the prompt's identity.
        interventions: Edits of hidden states under which a model reads the prompt (`icl.models.interventions.steer`).
        answer_start: Text that follows the rendered prompt: what the chat template writes before an answer
            (`LogitModel.before_answer`).
        empty_blocks: Which answers follow an empty reasoning block, if the chat template has one.
    """

    turns: tuple[Turn, ...]
    key: StreamKey = StreamKey()
    paired_prompt: "Prompt | None" = field(default=None, compare=False, repr=False)
    interventions: "tuple[Intervention, ...]" = ()
    answer_start: str = ""
    empty_blocks: EmptyBlocks = "as_template"

    def parts(self) -> Iterator[Part]:
        return (part for turn in self.turns for part in turn.parts)

    @cached_property
    def images(self) -> tuple[Image, ...]:
        return tuple(part.image for part in self.parts() if part.image is not None)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Part name -> (turn index, part index)."""
        return {
            part.name: (t, p) for t, turn in enumerate(self.turns) for p, part in enumerate(turn.parts) if part.name
        }

    @cached_property
    def text(self) -> str:
        """All text in order with a placeholder for each image. For records and readers, not for models."""
        return "\n".join(
            f"[{turn.role}] "
            + "".join(part.text if part.text is not None else IMAGE_PLACEHOLDER for part in turn.parts)
            for turn in self.turns
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of all that a model reads, and of interventions. Prompts with equal digests share a prefill."""
        content: list[Any] = [
            [
                turn.role,
                [[None, part.image.digest] if part.image else [part.text, _slot(part)] for part in turn.parts],
            ]
            for turn in self.turns
        ]
        if self.interventions:
            content.append([one.digest for one in self.interventions])
        if self.answer_start:
            content.append(self.answer_start)
        if self.empty_blocks != "as_template":
            content.append(["empty blocks", self.empty_blocks])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def map(self, change: Callable[[Part], Part | None]) -> "Prompt":
        """Replace each part by `change(part)`. None drops the part. A turn without parts is dropped too."""
        turns = (_with_parts(turn, tuple(p for p in map(change, turn.parts) if p is not None)) for turn in self.turns)
        return replace(self, turns=tuple(turn for turn in turns if turn.parts))

    def edit(self, images: Edit, where: Where = "all") -> "Prompt":
        """Apply an edit to all images, to the query's alone, or to the demonstrations' alone.

        Equal edits of a prompt return one object, so arms that share a branch compute its digest once.
        """
        own = images.describe(), where
        if own in self._edited:
            return self._edited[own]

        def change(part: Part) -> Part:
            if part.image is None or not part.within(where):
                return part
            return replace(part, content=part.image.edit(images.bind(self.key, spans.random_factor(part.name))))

        return self._edited.setdefault(own, self.map(change))

    @cached_property
    def _edited(self) -> "dict[tuple[str, Where], Prompt]":
        """The results of `edit`."""
        return {}

    def without_images(self, where: Where = "all") -> "Prompt":
        return self.map(lambda part: None if part.image is not None and part.within(where) else part)

    def _repr_html_(self) -> str:
        return _prompt_html(self)


def _with_parts(turn: Turn, parts: tuple[Part, ...]) -> Turn:
    """The turn with these parts; the turn itself if they are its own, which many branches leave as they are."""
    is_same = len(parts) == len(turn.parts) and all(map(operator.is_, parts, turn.parts))
    return turn if is_same else Turn(turn.role, parts)


def _slot(part: Part) -> str | None:
    return "image slot" if part.fills_image_slot else None


@dataclass(frozen=True)
class Usage:
    """Cost of one answer. Work that several arms share is counted in the run's cost record instead."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    forwards: int = 0
    thinking_tokens: int = 0


ThinkingEnd = Literal["", "closed", "cut", "open"]
"""How a reasoning block under a thinking budget ended: by the model, by the budget, or not at all. '' without one."""


@dataclass(frozen=True)
class Generation:
    """The answer of a model to one request.

    Attributes:
        tokens: Token ids without the stop token.
        finish: 'stop' or 'length'.
        trace: Name -> one value per step, recorded by the strategy.
        option_scores: Option -> log-probability, if options were scored.
        steps: The likeliest tokens of each branch at every step, if requested
            (`decoding.engine.trace.serialize_step_traces`).
        thinking: How the reasoning block ended, if there is a thinking budget.
        reasoning: What the model thought before it chose an option. Elsewhere the reasoning is part of the text.
        masked: Whether the strategy's mask excludes every option, at some token of it.
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: Literal["stop", "length"] = "stop"
    usage: Usage = Usage()
    trace: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    option_scores: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, Json] = field(default_factory=dict)
    thinking: ThinkingEnd = ""
    reasoning: str = ""
    masked: bool = False


@dataclass(frozen=True)
class Sample:
    """One scored query of one cell: a line of the store. All values are JSON.

    Attributes:
        cell: Digest of the resolved cell.
        question: The question as the prompt shows it.
        demos: (id, score, answer) of each demonstration in prompt order.
        ranks: Retrieval rank of each demonstration; 0 is the best.
        dropped: Number of demonstrations that did not fit the context.
        image_of: Owner of each image: the index of its demonstration, or -1 for the query.
        finish: 'length' if the answer was cut at its limit of tokens, else 'stop'.
        thinking: How the reasoning block ended, if there is a thinking budget (`ThinkingEnd`).
        reasoning: What the model thought before it chose an option.
        masked: 1 if the strategy's mask excludes every option (`Generation.masked`), else 0.
        gold_before_after: The canonical answer before and after a renaming of answers.
        scores: Metric -> value in [0, 1].
        unread: The metrics whose score is not certain, because the output cannot be read (`icl.metrics.reading`).
        baselines: Baseline -> metric -> value: answers from the same demonstrations without a model.
        steps: The likeliest tokens of each branch at every step, if the config requests them.
        marks: Notes on retrieval, order and transforms.
        failed: The reason for a missing output.
        invocation: The process that computed it: an `id` of invocations.jsonl.
        scores_invocation: The process that scored it again after its metrics had changed; 0 if none did.
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
    thinking: str = ""
    reasoning: str = ""
    masked: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    option_scores: Mapping[str, float] = field(default_factory=dict)
    trace: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: Mapping[str, Json] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    failed: str | None = None
    invocation: int = 0
    scores_invocation: int = 0


def _prompt_html(prompt: Prompt) -> str:
    """The turns of a prompt with their images in place. The title of an image is its span, origin and edits."""
    images = Thumbnails()
    turns = [
        box_html(
            f"<div>{dim_html(turn.role)}</div>",
            *(text_html(part.text) if part.image is None else images.tag(part.image, part.name) for part in turn.parts),
        )
        for turn in prompt.turns
    ]
    about = f"Prompt: {len(prompt.images)} images, {sum(len(part.text or '') for part in prompt.parts()):,} characters"
    return f"<div>{dim_html(about)}</div>{''.join(turns)}{images.remark()}"


def _context_html(context: Context) -> str:
    """The demonstrations in prompt order with similarity, rank and answer, then the query."""
    images, has_scores = Thumbnails(), any(demo.score for demo in context.demos)
    rows = []
    for number, demo in enumerate(context.demos):
        cells = _example_cells(demo.example, images)
        near = [f"{demo.score:.3f}"] if has_scores else []
        rows.append([str(number + 1), *cells, text_html(demo.example.answer), *near, str(demo.rank)])
    blank = [""] * (2 + has_scores)
    rows.append(["query", *_example_cells(context.query, images), *blank])
    head = ["", "id", "images", "question", "answer", *(["similarity"] if has_scores else []), "rank"]
    names = ", ".join(f"{old} → {new}" for old, new in context.label_map.items())
    notes = [*context.provenance, *([f"answers are renamed: {names}"] if names else [])]
    about = f"Context: {len(context.demos)} demonstrations, in prompt order"
    return (
        f"<div>{dim_html(about)}</div>"
        f"{table_html(head, rows)}{''.join(f'<div>{dim_html(note)}</div>' for note in notes)}{images.remark()}"
    )


def _example_html(example: Example | Query) -> str:
    """An example with its images, question, options and answers; a query has no answers."""
    images = Thumbnails()
    facts: list[tuple[str, Any]] = [
        ("id", example.id),
        ("question", example.question),
        ("options", " / ".join(example.options)),
        ("answers", " / ".join(getattr(example, "answers", ()))),
        ("label", getattr(example, "label", None)),
        *example.meta.items(),
    ]
    lines = (f"<div>{dim_html(name)} {text_html(value)}</div>" for name, value in facts if value not in ("", None))
    return box_html(f"<div>{images.row(example.images)}</div>", *lines, images.remark())


def _example_cells(example: Example | Query, images: Thumbnails) -> list[str]:
    return [text_html(example.id), images.row(example.images), text_html(example.question)]
