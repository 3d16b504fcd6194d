"""What does a drawing show: its noun, its category or its title, on drawings of many hands."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from icl import ConfigError, DataError, Example, PositiveInt, StreamKey, component, parameter
from icl.tasks.base import Pool, SharedPoolTask, nested_choice
from icl.tasks.drawings.table import (
    DrawingRecord,
    NounSet,
    SplitBy,
    demo_sources,
    drawings_folder,
    is_for_queries,
    of_styles,
    public_facts,
    read_drawings,
    with_noun,
)

Answer = Literal["noun", "category", "title"]
QUESTIONS: Mapping[Answer, str] = {
    "noun": "What is in the image?",
    "category": "What kind of thing is in the image?",
    "title": "Describe the image in a few words.",
}


@component("task", "drawings")
@dataclass(frozen=True)
class DrawingsTask(SharedPoolTask):
    """Naming of real drawings: the noun by k options or openly, the category of the noun, or the title as a caption.

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

    def facts(self, demos: Sequence[Example]) -> Mapping[str, list[str]]:
        """Who made the demonstrations' drawings."""
        return demo_sources(demos)

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
