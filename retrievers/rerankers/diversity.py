"""Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) among what any retriever found.

    next = argmax over x not in S of   l score(x) - (1 - l) max over s in S of cos(x, s)

The relevance is the retriever's own score, which should be a similarity up to 1 (that of `bm25` is not).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from icl.params import Share
from icl.registry import Nested, component
from icl.tasks.base import Pool
from icl.types import Query, Scored
from retrievers.base import Embedder, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.near import compared
from retrievers.selection import mmr
from retrievers.sources import Source, source_of


@component("reranker", "diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Good by the retriever's score and far from each other (maximal marginal relevance)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})

    balance: Share  # l: 1 keeps the retriever's order, 0 is diversity alone after the first
    by: Literal["picture", "question", "both"] = "picture"  # what is compared
    embedder: Annotated[Embedder, Nested("embedder")] = field(default_factory=Encoder)  # what makes the vectors

    def fit(self, pool: Pool, resources: Resources) -> "FittedDiversity":
        return FittedDiversity(self, pool, source_of(self.embedder, resources.cache, pool))


@dataclass(frozen=True)
class FittedDiversity:
    """The vectors of one pool."""

    reranker: Diversity
    pool: Pool
    source: Source

    def rerank(self, queries: Sequence[Query], found: Sequence[Sequence[Scored]], k: int) -> list[tuple[Scored, ...]]:
        return [self._one(candidates, k) for candidates in found]

    def _one(self, candidates: Sequence[Scored], k: int) -> tuple[Scored, ...]:
        if not candidates:
            return ()
        vectors = compared([self.pool.by_id[one.id] for one in candidates], self.source, self.reranker.by)
        relevance = np.array([one.score for one in candidates])
        return tuple(candidates[place] for place in mmr(relevance, vectors, k, self.reranker.balance))
