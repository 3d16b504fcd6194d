"""Random demonstrations: the baseline of every retrieval experiment.

Drawn uniformly without replacement from the stream (seed, query id, "demos"): the same for any batch, order of queries
and number of workers, and nested: the 4-shot set begins the 8-shot set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from icl.registry import component
from icl.streams import stream
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Resources
from retrievers.machinery.leak_policy import fair, too_few
from retrievers.machinery.random_order import random_order


@component("retriever", "random")
@dataclass(frozen=True)
class Random:
    """Uniform draws for each query, nested across shots."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True

    def fit(self, pool: Pool, resources: Resources) -> "FittedRandom":
        return FittedRandom(pool, resources.seed)


@dataclass(frozen=True)
class FittedRandom:
    """Draws from one pool. Every score is 0: chance knows no similarity."""

    pool: Pool
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int) -> list[tuple[RetrievedExample, ...]]:
        return [self._one(query, k) for query in queries]

    def _one(self, query: Query, k: int) -> tuple[RetrievedExample, ...]:
        examples, allowed = self.pool.examples, fair(query)
        order = random_order(stream(self.seed, query.id, "demos"), len(examples))
        given = tuple(RetrievedExample(examples[i].id) for i in islice((i for i in order if allowed(examples[i])), k))
        if len(given) < k:
            raise too_few(self.pool, query, k)
        return given
