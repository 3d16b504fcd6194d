"""Which of several drawings shows another kind of thing than the others?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icl import ConfigError, DataError, Example, Pool, PositiveInt, SharedPoolTask, StreamKey, component, parameter
from icl.tasks.drawings.table import (
    DrawingRecord,
    SplitBy,
    demo_sources,
    drawings_folder,
    is_for_queries,
    of_styles,
    read_drawings,
    with_noun,
)

QUESTION = "Which image shows another kind of thing than the others? Answer with its number."


@component("task", "drawings-odd-one-out")
@dataclass(frozen=True)
class DrawingsOddOneOutTask(SharedPoolTask):
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

    def facts(self, demos: Sequence[Example]) -> Mapping[str, list[str]]:
        """Who made the demonstrations' drawings."""
        return demo_sources(demos)

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
