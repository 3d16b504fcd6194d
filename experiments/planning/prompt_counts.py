"""What a plan counts in the prompts that it reads: equal branches, unlisted options, shared blocks, and tokens.

Token counts are stored in the cache folder, so that a plan is made again without loading a processor:

    token_counts/<digest of the model and of the versions>.json    digest of a prompt -> its number of tokens

Importing transformers and torch and reading a processor takes several seconds of a plan. The digest of a model covers
the files of its processor, and the digest of a prompt covers its texts and the pixels of its images.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from decoding import Strategy, constant_strength
from experiments.config.keys import DEMONSTRATION_AXES
from experiments.contexts.contexts import PromptItem
from experiments.grid import TOLERANCE, Cell, Grid, degenerate_at_shots
from experiments.store.store import write_json
from icl import Image, Model, Prompt, StoreError, __version__, cache_folder, canonical_digest, normalize_text
from icl.metrics.machinery.yes_no import asks_yes_no
from icl.option_listing import OPTION_TEXTS
from retrievers import declared


@dataclass
class IdenticalBranches:
    """Finds contrasts whose branches are all equal on the data, though they differ on other data.

    Counts the prompts in which branches differ, for each strategy of the config with several branches.
    """

    read: dict[str, int] = field(default_factory=dict)
    differ: dict[str, int] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    shots: dict[str, set[int]] = field(default_factory=dict)

    def add(self, cell: Cell, branches: Sequence[Prompt]) -> None:
        if len(branches) > 1 and not (cell.control or cell.decoding.strategy.traits.is_control):
            label = str(cell.labels["decoding"])
            self.cells[label] = cell
            self.shots.setdefault(label, set()).add(cell.shots)
            self.read[label] = self.read.get(label, 0) + 1
            self.differ[label] = self.differ.get(label, 0) + (len({branch.digest for branch in branches}) > 1)

    def notes(self) -> list[str]:
        """A sentence for each strategy that contrasts nothing on these data, unless `grid_warnings` reports it."""
        return [
            _note(label, self.cells[label].decoding.strategy, self.read[label])
            for label, count in self.differ.items()
            if count == 0 and not all(degenerate_at_shots(self.cells[label], shots) for shots in self.shots[label])
        ]


def _note(label: str, strategy: Strategy, prompts: int) -> str:
    strength = constant_strength(strategy)
    control = "mask_only" if strength is None or abs(strength - 1) < TOLERANCE else "temperature_matched"
    return (
        f"decoding '{label}': in all {prompts:,} prompts that were read every branch is the prompt itself, so it has "
        f"become {control} on these data."
    )


FACTORS = {"retriever": "retrievers", "order": "orders", "transforms": "transforms", "composer": "composers"}
"""The axes whose values write prompts, and their names for several."""


@dataclass
class EqualPrompts:
    """Finds values of an axis under which all prompts that were read are equal, so that their arms have equal answers.

    Attributes:
        grid: Prompts of cells that a plan changed, to spare calls of a model, are not compared.
        digests: The labels that a prompt depends on -> (shots, seed, query) -> digest of the prompt.
    """

    grid: Grid
    digests: dict[tuple[str, ...], dict[tuple[int, int, str], str]] = field(default_factory=dict)

    @cached_property
    def _own(self) -> dict[str, Cell]:
        return {cell.digest: cell for cell in self.grid.cells}

    def is_own(self, cell: Cell) -> bool:
        """Whether no placeholder stands for a component of the cell."""
        own = self._own[cell.digest]
        return (cell.retriever, cell.order, *cell.transforms) == (own.retriever, own.order, *own.transforms)

    def add(self, item: PromptItem) -> None:
        cell = item.spec.cell
        if item.prompt is not None and self.is_own(cell):
            names = (*FACTORS, "rerankers", "task", "model")
            labels = tuple(str(cell.labels.get(name)) for name in names)
            self.digests.setdefault(labels, {})[cell.shots, cell.seed, item.example.id] = item.prompt.digest

    def notes(self) -> list[str]:
        """A sentence for each group of values with equal prompts."""
        sizes: dict[str, int] = {}
        has_shots = any(shots for digests in self.digests.values() for shots, _, _ in digests)
        for place, axis in enumerate(FACTORS):
            groups: dict[Any, list[str]] = {}
            for labels, digests in self.digests.items():
                own = frozenset(one for one in digests.items() if one[0][0] or axis not in DEMONSTRATION_AXES)
                if own:
                    groups.setdefault((*labels[:place], *labels[place + 1 :], own), []).append(labels[place])
            for rest, values in groups.items():
                if len(values) > 1:
                    where = "" if not has_shots or any(shots for (shots, _, _), _ in rest[-1]) else " with 0 shots"
                    start = f"the prompts of {FACTORS[axis]} {', '.join(values)}{where} are identical"
                    sizes[start] = sizes.get(start, 0) + len(rest[-1])
        return [
            f"{start} in all {size:,} that were read, so their arms have equal answers" for start, size in sizes.items()
        ]


MIN_SHARED = 0.1
"""Share of the tokens that a nested order must save to be worth a sentence."""


@dataclass
class NestedShots:
    """Estimates what a nested order of shots saves, or would save if demonstrations have no rank.

    Counts prompts of nested retrievers in models that read a common beginning once. Their order is nested, or it is the
    usual order and the demonstrations have no scores, so that it could be nested.

    Attributes:
        tokens: (whether the order is nested, retriever, other labels without the shots, query) -> shots -> tokens.
    """

    tokens: dict[tuple[Any, ...], dict[int, int]] = field(default_factory=dict)

    def add(self, item: PromptItem, tokens: int) -> None:
        cell, demos = item.spec.cell, item.context.demos
        is_nested = declared(cell.retriever, "nested") and cell.num_demos == cell.shots
        is_local = not {"logits", "strategies"}.isdisjoint(cell.model.abilities)
        order, is_scored = (cell.config["order"] or {}).get("name"), any(demo.score for demo in demos)
        is_used = getattr(cell.order, "nested", False) and not (is_scored and order == "auto")
        if is_nested and is_local and (is_used or (order == "reversed" and not is_scored)):
            axes = ("retriever", "task", "model", "transforms", "composer", "seed")
            key = (is_used, *(str(cell.labels[axis]) for axis in axes), item.example.id)
            self.tokens.setdefault(key, {})[cell.shots] = tokens

    def notes(self) -> list[str]:
        """A sentence if a nested order saves much, or would."""
        return [
            *self._note(
                True,
                "with {}, a prompt with more shots continues the prompt with fewer, so the model reads about {:.0%} "
                "fewer tokens. The tokens above do not include this.",
            ),
            *self._note(
                False,
                "demonstrations of {} have no rank, so their order has no meaning. With order: auto, a prompt with "
                "more shots would continue the prompt with fewer, and the model would read about {:.0%} fewer tokens.",
            ),
        ]

    def _note(self, is_used: bool, sentence: str) -> Iterator[str]:
        own = {key: ladder for key, ladder in self.tokens.items() if len(ladder) > 1 and key[0] == is_used}
        ladders, saved = own.values(), 0.0
        for ladder in ladders:
            few, many = min(ladder), max(ladder)
            saved += (ladder[many] - ladder[few]) / (many - few) * (sum(ladder) - many)
        total = sum(sum(ladder.values()) for ladder in ladders)
        if saved > MIN_SHARED * total:
            yield sentence.format(", ".join(dict.fromkeys(key[1] for key in own)), saved / total)


@dataclass(frozen=True)
class PrefixReuse:
    """Tokens of all prompts, and how many of them are in the cache if it holds all blocks."""

    tokens: float = 0.0
    cached: float = 0.0

    @property
    def fraction(self) -> float | None:
        return self.cached / self.tokens if self.tokens else None

    def __add__(self, other: "PrefixReuse") -> "PrefixReuse":
        return PrefixReuse(self.tokens + other.tokens, self.cached + other.cached)


@dataclass
class PrefixBlocks:
    """Estimates the tokens that a prefix cache saves: tokens in whole blocks minus tokens in distinct blocks.

    A counter of the blocks of one task's prompts. Models without a prefix cache do not count.

    Attributes:
        tokens: Tokens of all prompts.
        in_blocks: Tokens of them in whole blocks.
        first: (model, block) -> (index of the first query that had it, tokens of the block).
    """

    tokens: int = 0
    in_blocks: int = 0
    first: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def add(self, model: Any, branch: Prompt, tokens: int, times: int, index: int) -> None:
        """Counts a prompt that the query at this index reads `times` times."""
        if (blocks := model.prefix_blocks(branch)) is None:
            return
        size, keys = blocks
        self.tokens += times * tokens
        self.in_blocks += times * size * len(keys)
        for key in keys:
            self.first.setdefault((id(model), key), (index, size))

    def scaled(self, read: int, of: int) -> PrefixReuse:
        """Estimates the reuse after all queries.

        Each further query brings as many new blocks as one of the second half of those read.
        """
        distinct = float(sum(size for _, size in self.first.values()))
        second_half = sum(size for index, size in self.first.values() if index >= read / 2)
        distinct += second_half * (of - read) / max(read - -(-read // 2), 1)
        return PrefixReuse(self.tokens * of / read, max(self.in_blocks * of / read - distinct, 0.0))


@dataclass
class UnlistedOptions:
    """Finds questions whose options no prompt shows: a model that cannot know them answers in words of its own.

    For each task and query, an option that no prompt showed so far; None if a prompt showed all of them."""

    missing: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def add(self, item: PromptItem) -> None:
        """Reads a rendered prompt. Yes-no questions and single options need no list."""
        example = item.example
        if item.prompt is None or len(example.options) < 2 or asks_yes_no(example):
            return
        options = example.meta.get(OPTION_TEXTS, example.options)
        text = normalize_text(item.prompt.text)
        queries = self.missing.setdefault(item.spec.cell.task.title, {})
        if queries.get(example.id, "") is not None:
            queries[example.id] = next((option for option in options if normalize_text(option) not in text), None)

    def notes(self) -> list[str]:
        """A sentence for each task whose options are missing in the prompts of most queries."""
        notes = list[str]()
        for title, queries in self.missing.items():
            missing = [option for option in queries.values() if option is not None]
            if 2 * len(missing) > len(queries):
                notes.append(
                    f"task '{title}': options are not in the prompt of {len(missing)} of {len(queries)} queries that "
                    f"choose among options, for example '{missing[0]}'. The task `hub` lists them with list_options: "
                    "letters or texts, other tasks with transforms: [option_list]."
                )
        return notes


MAX_STORED = 200_000
"""If there are more, only the counts of the last plan are stored."""

CONTEXT = "max_tokens"
"""The key of the context length of the model."""


class TokenCounts:
    """The context length of a model and the token counts of prompts.

    An endpoint's counts are not stored: its digest does not identify the tokenizer of the server.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.is_stored = model, not model.is_endpoint
        self.used: dict[str, int | None] = {}

    @cached_property
    def stored(self) -> dict[str, int | None]:
        with suppress(OSError, ValueError):
            counts = json.loads(self._path.read_bytes()) if self.is_stored else {}
            if isinstance(counts, dict):
                return counts
        return {}

    @property
    def max_tokens(self) -> int | None:
        return self._get(CONTEXT, lambda: self.model.max_tokens)

    def count_tokens(self, prompt: Prompt) -> int:
        """As `Model.count_tokens`, which also raises the errors of prompts that cannot be rendered."""
        return self._get(prompt.digest, lambda: self.model.count_tokens(prompt)) or 0

    def tokens_of_image(self, image: Image) -> tuple[int, int] | None:
        """As `Model.tokens_of_image`. Tokens depend on the size of an image only."""
        width, height = image.open().size
        keys = (f"image of {width} x {height}", f"image of {width} x {height} by default")
        if any(self.stored.get(key) is None for key in keys) and keys[0] not in self.used:
            self.used |= dict(zip(keys, self.model.tokens_of_image(image) or (None, None), strict=True))
        own, default = (self._get(key, lambda: None) for key in keys)
        return None if own is None or default is None else (own, default)

    def _get(self, key: str, count: Callable[[], int | None]) -> int | None:
        if key not in self.used:
            stored = self.stored.get(key)
            self.used[key] = count() if stored is None else stored
        return self.used[key]

    def save(self) -> None:
        """Stores the counts, if there are new ones."""
        if not self.is_stored or self.used.keys() <= self.stored.keys():
            return
        counts = self.stored | self.used
        with suppress(StoreError):  # the next plan counts again
            write_json(self._path, counts if len(counts) <= MAX_STORED else self.used)

    @cached_property
    def _path(self) -> Path:
        versions = [__version__, *map(_version, ("transformers", "tokenizers"))]
        identity = [type(self.model).__module__, type(self.model).__qualname__, self.model.digest, versions]
        return cache_folder() / "token_counts" / f"{canonical_digest(identity)[:32]}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
