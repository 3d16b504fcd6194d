"""Label balance: no label gets more than its share of the shots.

A label gets at most ceil(k / number of labels) demonstrations, in the order of rank. If fewer than k remain, the best
of the other candidates follow. The labels come from the task: the options of the query if they include every label
of the pool, otherwise the labels of the pool. The labels of the candidates alone do not count.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Pool, Query, RetrievedExample, component
from retrievers import Resources, RetrievedDemos


@component("reranker", "label_balance")
@dataclass(frozen=True)
class LabelBalance:
    """Candidates with at most an equal share of the shots for each label, best first."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def fit(self, pool: Pool, resources: Resources) -> "FittedLabelBalance":
        return FittedLabelBalance(pool, frozenset(example.class_name for example in pool.examples))


@dataclass(frozen=True)
class FittedLabelBalance:
    """The labels of one pool."""

    pool: Pool
    labels: frozenset[str]

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        return [self._rerank_one(query, demos, k) for query, demos in zip(queries, candidates, strict=True)]

    def _rerank_one(self, query: Query, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        if not candidates:
            return ()
        labels = frozenset(query.options) if self.labels <= frozenset(query.options) else self.labels
        share, counts = -(-k // len(labels)), Counter[str]()
        within: list[RetrievedExample] = []
        excess: list[RetrievedExample] = []
        for demo in candidates:
            label = self.pool.by_id[demo.id].class_name
            (within if counts[label] < share else excess).append(demo)
            counts[label] += 1
        return tuple([*within, *excess][:k])
