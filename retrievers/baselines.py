"""Baselines of retrieval: no demonstrations, and random ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Pool, Query, RetrievedExample, StreamKey, component
from retrievers import EXCLUDE_LEAKS, FittedRanking, LeakPolicy, Resources, RetrievedDemos


@component("retriever", "none")
@dataclass(frozen=True)
class NoDemos:
    """No demonstrations for any number of shots.

    No demonstrations: the zero-shot arm.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    returns_k: ClassVar[bool] = False  # returns fewer than k

    def fit(self, pool: Pool, resources: Resources) -> "NoDemos":
        return self

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [() for _ in queries]


@component("retriever", "random")
@dataclass(frozen=True)
class RandomRetriever:
    """Uniformly random demonstrations for each query, nested across shots.

    Random demonstrations: the baseline of every retrieval experiment.

    They are drawn uniformly without replacement: the members with the smallest numbers from (seed, query id, "demos",
    member id). They depend neither on the batch, nor on the order of queries, nor on the number of workers. The sets
    are nested: the 8-shot set begins with the 4-shot set. A new member of the pool changes the set of a query only if
    it is in the set.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    reads_pool_only: ClassVar[bool] = True

    def fit(self, pool: Pool, resources: Resources) -> "FittedRandom":
        return FittedRandom(pool, resources.seed)


@dataclass(frozen=True)
class FittedRandom(FittedRanking):
    """A random order of one pool for each query. All scores are 0."""

    seed: int

    def rank(self, query: Query) -> Iterator[RetrievedExample]:
        for example in self.pool.in_random_order(StreamKey(self.seed, query.id), "demos"):
            yield RetrievedExample(example.id)
