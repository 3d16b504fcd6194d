"""Label balance: no label takes more than its share of the shots.

At most ceil(k / number of labels) demonstrations of a label, in the order of rank; where that leaves fewer than k, the
best of those passed over fill up. The labels are those of the pool, not of the candidates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query, Scored
from retrievers.balanced import label_of
from retrievers.base import Resources


@component("reranker", "label_balance")
@dataclass(frozen=True)
class LabelBalance:
    """At most an equal share of the shots to each label, best first."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def fit(self, pool: Pool, resources: Resources) -> "FittedLabelBalance":
        return FittedLabelBalance(pool, len({label_of(example) for example in pool.examples}))


@dataclass(frozen=True)
class FittedLabelBalance:
    """The labels of one pool."""

    pool: Pool
    labels: int

    def rerank(self, queries: Sequence[Query], found: Sequence[Sequence[Scored]], k: int) -> list[tuple[Scored, ...]]:
        return [self._one(candidates, k) for candidates in found]

    def _one(self, candidates: Sequence[Scored], k: int) -> tuple[Scored, ...]:
        share, seen = -(-k // max(self.labels, 1)), Counter[str]()
        within: list[Scored] = []
        over: list[Scored] = []
        for one in candidates:
            label = label_of(self.pool.by_id[one.id])
            (within if seen[label] < share else over).append(one)
            seen[label] += 1
        return tuple([*within, *over][:k])
