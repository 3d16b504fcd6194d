"""Fast binding of names to real drawings: made-up names, swapped real names, or the real ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl import DataError, Example, Pool, PositiveInt, StreamKey, component, parameter
from icl.tasks.drawings.table import (
    DrawingRecord,
    NounSet,
    demo_sources,
    drawings_folder,
    of_styles,
    public_facts,
    read_drawings,
    with_noun,
)
from icl.tasks.generated import BINDING_QUESTIONS, NONCE, query_id, query_number, shuffled

Names = Literal["made_up", "swapped", "real"]


@component("task", "drawings-binding")
@dataclass(frozen=True)
class DrawingsBindingTask:
    """Names for the nouns of real drawings, new for every query, as in VL-ICL's fast binding (Zong et al., ICLR 2025).

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

    def facts(self, demos: Sequence[Example]) -> Mapping[str, list[str]]:
        """Who made the demonstrations' drawings."""
        return demo_sources(demos)


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
