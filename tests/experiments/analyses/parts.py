"""Models, a task and a retriever for runs whose right analysis is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from PIL import Image

from icl.metrics.base import Better
from icl.metrics.lenient import Lenient
from icl.models.base import Request
from icl.pictures import Picture
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Example, Generation, Query, Scored
from retrievers.base import Resources

COLOURS = ("red", "green", "blue")


def wordy_without_demonstrations(request: Request) -> str:
    """Right, in a sentence; with demonstrations in their form."""
    return request.gold[0] if request.demos else f"It is {request.gold[0]}."


def dunno(request: Request) -> str:
    return "no idea"


def trusting(request: Request) -> str:
    """Right where at least half of the demonstrations say what their picture shows."""
    true = [example.answer == COLOURS[int(example.id[-4:]) % 3] for example, _ in request.demos]
    return request.gold[0] if true and sum(true) >= len(true) / 2 else ""


def half_the_gain(request: Request) -> str:
    """Right at 0 shots for one query in two, with pictures for all, without their pictures as at 0 shots."""
    seen = request.demos and request.demos[0][0].pictures
    return request.gold[0] if seen or int(request.prompt.key.query[-1]) % 2 else ""


@component("metric", "test-wrong")
@dataclass(frozen=True)
class Wrong:
    """The complement of lenient: lower is better."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        return 1 - (Lenient().score(generation, example) or 0)


@component("task", "test-leaking")
@dataclass(frozen=True)
class Leaking:
    """The pool is the queries."""

    @property
    def title(self) -> str:
        return "leaking"

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self._example(i) for i in range(4))

    @cached_property
    def _pool(self) -> Pool:
        return Pool((*self.queries, Example("twin", self.queries[3].pictures, "?", ("a3",))))

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return 5

    def _example(self, i: int) -> Example:
        return Example(f"q{i}", (Picture.from_image(Image.new("RGB", (4, 4), (i, 0, 0)), f"p{i}"),), "?", (f"a{i}",))


@component("retriever", "test-first")
@dataclass(frozen=True)
class Careless:
    """The given examples of the pool, whoever asks and however many are asked for."""

    needs: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = False

    ids: tuple[str, ...] = ()

    def fit(self, pool: Pool, resources: Resources) -> "Careless":
        return self

    def retrieve(self, queries: Sequence[Query], k: int) -> list[tuple[Scored, ...]]:
        return [tuple(Scored(name, 1 - i / 10) for i, name in enumerate(self.ids[:k])) for _ in queries]
