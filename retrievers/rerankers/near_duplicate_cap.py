"""Near-duplicate cap: a candidate that all but repeats a better one is dropped.

In the order of rank, a candidate whose cosine with one already kept is strictly above the threshold goes, and does not
come back to fill up: fewer than k may be left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from icl.params import Share
from icl.registry import Nested, component
from icl.tasks.base import Pool
from icl.types import Query, Scored
from retrievers.base import Embedder, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.near import compared
from retrievers.selection import apart
from retrievers.sources import Source, source_of


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True)
class NearDuplicateCap:
    """Candidates that all but repeat a better one are dropped."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact: ClassVar[bool] = False  # may give fewer than k

    threshold: Share = 0.95  # a cosine above it is a repetition
    by: Literal["picture", "question", "both"] = "picture"  # what is compared
    embedder: Annotated[Embedder, Nested("embedder")] = field(default_factory=Encoder)  # what makes the vectors

    def fit(self, pool: Pool, resources: Resources) -> "FittedNearDuplicateCap":
        return FittedNearDuplicateCap(self, pool, source_of(self.embedder, resources.cache, pool))


@dataclass(frozen=True)
class FittedNearDuplicateCap:
    """The vectors of one pool."""

    reranker: NearDuplicateCap
    pool: Pool
    source: Source

    def rerank(self, queries: Sequence[Query], found: Sequence[Sequence[Scored]], k: int) -> list[tuple[Scored, ...]]:
        return [self._one(candidates, k) for candidates in found]

    def _one(self, candidates: Sequence[Scored], k: int) -> tuple[Scored, ...]:
        if not candidates:
            return ()
        vectors = compared([self.pool.by_id[one.id] for one in candidates], self.source, self.reranker.by)
        return tuple(candidates[place] for place in apart(vectors, k, self.reranker.threshold))
