"""Label balance: no label takes more than its share of the shots.

At most ceil(k / number of labels) demonstrations of a label, in the order of rank; where that leaves fewer than k, the
best of those passed over fill up. The labels are those of the task: the query's options where every label of the pool
is one of them, else those of the pool; never those of the candidates alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Resources


@component("reranker", "label_balance")
@dataclass(frozen=True)
class LabelBalance:
    """At most an equal share of the shots to each label, best first."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def fit(self, pool: Pool, resources: Resources) -> "FittedLabelBalance":
        return FittedLabelBalance(pool, frozenset(example.class_name for example in pool.examples))


@dataclass(frozen=True)
class FittedLabelBalance:
    """The labels of one pool."""

    pool: Pool
    labels: frozenset[str]

    def rerank(
        self, queries: Sequence[Query], found: Sequence[Sequence[RetrievedExample]], k: int
    ) -> list[tuple[RetrievedExample, ...]]:
        return [self._one(query, candidates, k) for query, candidates in zip(queries, found, strict=True)]

    def _one(self, query: Query, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        labels = frozenset(query.options) if self.labels <= frozenset(query.options) else self.labels
        share, seen = -(-k // max(len(labels), 1)), Counter[str]()
        within: list[RetrievedExample] = []
        over: list[RetrievedExample] = []
        for one in candidates:
            label = self.pool.by_id[one.id].class_name
            (within if seen[label] < share else over).append(one)
            seen[label] += 1
        return tuple([*within, *over][:k])
