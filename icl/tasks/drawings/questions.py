"""Questions about drawings: naming one, binding names to drawings, and the odd one out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from icl import ConfigError, DataError, Example, PositiveInt, StreamKey, component, parameter
from icl.tasks.base import Pool, SharedPoolTask, nested_choice
from icl.tasks.drawings.table import (
    DemoSources,
    DrawingRecord,
    NounSet,
    SplitBy,
    drawings_folder,
    is_for_queries,
    of_styles,
    public_facts,
    read_drawings,
    with_noun,
)
from icl.tasks.generated import BINDING_QUESTIONS, NONCE, query_id, query_number, shuffled

Answer = Literal["noun", "category", "title"]
QUESTIONS: Mapping[Answer, str] = {
    "noun": "What is in the image?",
    "category": "What kind of thing is in the image?",
    "title": "Describe the image in a few words.",
}


@component("task", "drawings")
@dataclass(frozen=True)
class DrawingsTask(DemoSources, SharedPoolTask):
    """Naming of real drawings: the noun by k options or openly, the category of the noun, or the title as a caption.

    What does a drawing show: its noun, its category or its title, on drawings of many hands.

    Openclipart (public domain), stamps of tuxpaint (GPL-2+) and three emoji styles, from packages of the system: `icl
    data drawings`. Nouns are read from titles with WordNet, and part of the titles mislead. Queries are one third of
    the drawings with a noun that the pool shows too. With `split: author`, no author is on both sides: a split by
    drawing lets a retriever recognize the hand. `icl analyze RUN leakage` counts demonstrations by the query's author.
    Two styles for queries and pool make a shift of style.
    """

    answer: Answer = "noun"  # what is asked: the noun, its category (animal, food, plant ...), or the title
    options: PositiveInt | None = 4  # nouns to choose from, the right one among them; None: an open answer
    nouns: NounSet = "all"  # nouns of queries and pool; held_out: those that no shipped model was trained on
    split: SplitBy = "drawing"  # what queries and pool do not share: drawings, or authors
    styles: tuple[str, ...] | None = None  # styles of the queries; None: all that are installed
    pool_styles: tuple[str, ...] | None = None  # styles of the pool; None: all
    min_drawings: PositiveInt = 2  # drawings of a noun in the pool, at least
    query_limit: PositiveInt | None = parameter("queries", 200)  # number of queries, a nested choice; None: all
    seed: int = 0  # random seed of split, options and choice, independent of the seeds of a run
    folder: str | None = None  # another folder of `icl data drawings --to`

    def __post_init__(self) -> None:
        if self.options == 1:
            raise ConfigError("options: 1 is no choice. Give 2 or more, or null for an open answer.")

    @property
    def title(self) -> str:
        ways = f"{self.options}-way" if self.options and self.answer == "noun" else "open"
        shift = f" · {', '.join(self.styles)}" if self.styles else ""
        return f"drawings by {self.answer} · {'caption' if self.answer == 'title' else ways}{shift}"

    @cached_property
    def _sides(self) -> tuple[list[DrawingRecord], list[DrawingRecord]]:
        """(drawings of queries, drawings of the pool)"""
        drawings = with_noun(read_drawings(drawings_folder(self.folder)), self.nouns)
        of_pool = [
            one
            for one in of_styles(drawings, self.pool_styles, "pool_styles")
            if not is_for_queries(one, self.split, self.seed)
        ]
        by_noun: dict[str, int] = defaultdict(int)
        for one in of_pool:
            by_noun[one.noun] += 1
        usable = {noun for noun, count in by_noun.items() if count >= self.min_drawings}
        of_queries = [
            one
            for one in of_styles(drawings, self.styles, "styles")
            if one.noun in usable and is_for_queries(one, self.split, self.seed)
        ]
        if not of_queries:
            raise DataError(
                "task 'drawings': no noun has a drawing for a query and others for the pool. Use fewer conditions "
                "(min_drawings, styles, nouns), or install more sets: icl data drawings"
            )
        return of_queries, [one for one in of_pool if one.noun in usable]

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        drawings = self._sides[0]
        chosen = nested_choice([one.id for one in drawings], self.query_limit, self.seed, "drawings/queries")
        return tuple(self._example(drawings[i]) for i in chosen)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._example(one) for one in self._sides[1]))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted({one.noun for one in self._sides[1]}))

    @cached_property
    def _categories(self) -> tuple[str, ...]:
        return tuple(sorted({one.category for one in self._sides[1]}))

    def _example(self, drawing: DrawingRecord) -> Example:
        text = {"noun": drawing.noun, "category": drawing.category, "title": drawing.title}[self.answer]
        return Example(
            id=drawing.id,
            images=(drawing.image(drawings_folder(self.folder)),),
            question=QUESTIONS[self.answer],
            answers=(text,),
            options=self._options(drawing),
            label=None if self.answer == "title" else text,
            domain=drawing.style,
            meta=public_facts(drawing),
            secret={"noun": drawing.noun},
        )

    def _options(self, drawing: DrawingRecord) -> tuple[str, ...]:
        if self.answer == "category":
            return self._categories
        if self.answer == "title" or self.options is None:
            return ()
        rng = StreamKey(self.seed, drawing.id).numpy("drawings/options")
        others = [name for name in self._names if name != drawing.noun]
        if len(others) < self.options - 1:
            raise ConfigError(
                f"options: {self.options} is more than the {len(others) + 1} nouns of the pool. Give a smaller number."
            )
        chosen = [others[i] for i in rng.permutation(len(others))[: self.options - 1]]
        place = int(rng.integers(self.options))
        return (*chosen[:place], drawing.noun, *chosen[place:])


Names = Literal["made_up", "swapped", "real"]


@component("task", "drawings-binding")
@dataclass(frozen=True)
class DrawingsBindingTask(DemoSources):
    """Names for the nouns of real drawings, new for every query, as in VL-ICL's fast binding (Zong et al., ICLR 2025).

    Fast binding of names to real drawings: made-up names, swapped real names, or the real ones.

    With made-up names only the demonstrations tell the answer. With swapped names (a dog is called "apple", an apple
    "dog") the demonstrations contradict what a model knows; with real names they agree. Each query has its own pool:
    `support` drawings of each of `ways` nouns, none of them the query's. Drawings come from `icl data drawings`.
    """

    ways: PositiveInt = 2  # nouns of a query; chance is 1 / ways
    names: Names = "made_up"  # made_up: nonsense words; swapped: real names, no noun with its own; real: their own
    support: PositiveInt = 2  # drawings of each noun in a query's pool
    nouns: NounSet = "held_out"  # held_out: nouns that no shipped model was trained on
    other_authors: bool = False  # whether no drawing of the pool is by the author of the query's
    styles: tuple[str, ...] | None = None  # styles of all drawings; None: all that are installed
    query_limit: PositiveInt = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run
    folder: str | None = None  # another folder of `icl data drawings --to`

    @property
    def title(self) -> str:
        return f"drawings-binding · {self.ways}-way · {self.names.replace('_', '-')} names"

    @cached_property
    def by_noun(self) -> Mapping[str, tuple[DrawingRecord, ...]]:
        """The nouns with enough drawings for a query and its pool."""
        drawings = of_styles(with_noun(read_drawings(drawings_folder(self.folder)), self.nouns), self.styles, "styles")
        groups: dict[str, list[DrawingRecord]] = defaultdict(list)
        for one in drawings:
            groups[one.noun].append(one)
        usable = {noun: tuple(group) for noun, group in sorted(groups.items()) if len(group) > self.support}
        if len(usable) < max(self.ways, 2):
            raise DataError(
                f"task 'drawings-binding': {len(usable)} nouns have {self.support + 1} drawings or more, too few "
                f"for {self.ways} ways. Use a smaller 'support', nouns: all, or install more sets: icl data drawings"
            )
        return usable

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(_episode(self, number).query for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _episode(self, query_number("drawings-binding", query_id, self.query_limit)).pool

    @property
    def pool_size(self) -> int:
        return self.ways * self.support


class _Episode:
    """One query with its nouns, their names and their drawings. The first noun is the query's."""

    def __init__(self, task: DrawingsBindingTask, number: int) -> None:
        self.task, self.id = task, query_id("drawings-binding", number)
        self.rng = StreamKey(task.seed, self.id).numpy("episode")
        nouns = shuffled(self.rng, tuple(task.by_noun))
        self.drawing, self.support = self._choose(nouns)
        order = shuffled(self.rng, tuple(self.support))
        names = self._names_of(order)
        self.names = dict(zip(order, names, strict=True))
        self.options = tuple(names)

    def _choose(self, nouns: Sequence[str]) -> tuple[DrawingRecord, dict[str, tuple[DrawingRecord, ...]]]:
        """The query's drawing, and the drawings of each noun in the pool, the query's noun first."""
        for noun in nouns:
            query, *others = shuffled(self.rng, self.task.by_noun[noun])
            support = {noun: self._allowed(others, query)}
            for other in nouns:
                if len(support) == self.task.ways:
                    break
                if other != noun:
                    drawings = self._allowed(shuffled(self.rng, self.task.by_noun[other]), query)
                    if len(drawings) == self.task.support:
                        support[other] = drawings
            if len(support) == self.task.ways and len(support[noun]) == self.task.support:
                return query, support
        raise DataError(
            f"task 'drawings-binding': no noun has {self.task.support} drawings by other authors than a query's. Use a "
            "smaller 'support', nouns: all, or other_authors: false."
        )

    def _allowed(self, drawings: Sequence[DrawingRecord], query: DrawingRecord) -> tuple[DrawingRecord, ...]:
        same = query.source if self.task.other_authors else None
        return tuple(one for one in drawings if one.source != same)[: self.task.support]

    def _names_of(self, nouns: Sequence[str]) -> list[str]:
        if self.task.names == "made_up":
            return shuffled(self.rng, NONCE)[: len(nouns)]
        if self.task.names == "real" or len(nouns) == 1:
            return list(nouns)
        return [*nouns[1:], nouns[0]]  # in a random order, so each noun has another's name at random

    @cached_property
    def query(self) -> Example:
        return self._example(self.id, self.drawing)

    @cached_property
    def pool(self) -> Pool:
        turns = [drawing for turn in zip(*self.support.values(), strict=True) for drawing in shuffled(self.rng, turn)]
        return Pool(tuple(self._example(f"{self.id}-s{i:03d}", drawing) for i, drawing in enumerate(turns)))

    def _example(self, name: str, drawing: DrawingRecord) -> Example:
        answer = self.names[drawing.noun]
        return Example(
            id=name,
            images=(drawing.image(drawings_folder(self.task.folder)),),
            question=BINDING_QUESTIONS[0],
            answers=(answer,),
            options=self.options,
            label=answer,
            domain=drawing.style,
            meta={**public_facts(drawing), "ways": self.task.ways},
            secret={"noun": drawing.noun},
        )


@lru_cache(maxsize=1024)
def _episode(task: DrawingsBindingTask, number: int) -> _Episode:
    return _Episode(task, number)


QUESTION = "Which image shows another kind of thing than the others? Answer with its number."


@component("task", "drawings-odd-one-out")
@dataclass(frozen=True)
class DrawingsOddOneOutTask(DemoSources, SharedPoolTask):
    """Several drawings of one category and one of another: the answer is the number of the odd one.

    Categories are WordNet's: animal, artifact, body part, food, natural object, plant. Drawings of queries and of the
    pool differ, and so do their authors with `split: author`. Drawings come from `icl data drawings`.
    """

    images: PositiveInt = 4  # drawings of a question; chance is 1 / images
    split: SplitBy = "drawing"  # what queries and pool do not share: drawings, or authors
    styles: tuple[str, ...] | None = None  # styles of all drawings; None: all that are installed
    pool_limit: PositiveInt = parameter("pool_size", 200)  # questions in the pool
    query_limit: PositiveInt = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run
    folder: str | None = None  # another folder of `icl data drawings --to`

    def __post_init__(self) -> None:
        if self.images < 3:
            raise ConfigError(f"images: {self.images} drawings have no odd one. Give 3 or more.")

    @property
    def title(self) -> str:
        return f"drawings-odd-one-out of {self.images}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return self._questions(self.query_limit, "query", True)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self._questions(self.pool_limit, "support", False))

    @property
    def pool_size(self) -> int:
        return self.pool_limit

    def _questions(self, limit: int, side: str, of_queries: bool) -> tuple[Example, ...]:
        drawings = of_styles(with_noun(read_drawings(drawings_folder(self.folder)), "all"), self.styles, "styles")
        by_category: dict[str, list[DrawingRecord]] = defaultdict(list)
        for one in drawings:
            if is_for_queries(one, self.split, self.seed) == of_queries:
                by_category[one.category].append(one)
        usable = {name: group for name, group in sorted(by_category.items()) if len(group) >= self.images}
        if len(usable) < 2:
            raise DataError(
                f"task 'drawings-odd-one-out': fewer than two categories have {self.images} drawings. Install "
                "more sets: icl data drawings"
            )
        return tuple(self._question(f"odd-{side}-{number:04d}", usable) for number in range(limit))

    def _question(self, name: str, by_category: Mapping[str, Sequence[DrawingRecord]]) -> Example:
        rng: np.random.Generator = StreamKey(self.seed, name).numpy("drawings/odd one out")
        common, odd = (list(by_category)[i] for i in rng.permutation(len(by_category))[:2])
        places = rng.permutation(len(by_category[common]))[: self.images - 1]
        chosen = [by_category[common][i] for i in places]
        place = int(rng.integers(self.images))
        chosen.insert(place, by_category[odd][int(rng.integers(len(by_category[odd])))])
        folder = drawings_folder(self.folder)
        return Example(
            id=name,
            images=tuple(one.image(folder) for one in chosen),
            question=QUESTION,
            answers=(str(place + 1),),
            options=tuple(str(number + 1) for number in range(self.images)),
            label=str(place + 1),
            meta={"source": " + ".join(sorted({one.source for one in chosen}))},
            secret={"common": common, "odd": odd},
        )
