"""Contrastive pairs: each near demonstration is followed by its own nearest member of another label.

    d1, p1, d2, p2, ...    d: nearest to the query, not yet shown    p: nearest to d with another label, not yet shown

A partner is near to the demonstration, not to the query, so the pair differs in little but the label (the contrastive
demonstrations of Bitton et al. 2024 for compositional tasks, without a caption generator). Nothing reads the gold. A
score is the similarity to the query. An odd number of shots ends with a demonstration without its partner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from icl.registry import component
from icl.tasks.base import Pool
from icl.types import RetrievedExample
from retrievers.base import Resources
from retrievers.hard_negative import check_two_labels
from retrievers.machinery.similarity import FittedSimilarity, ModalityRetriever, Neighbors, fit_similarity


@component("retriever", "contrastive_pair")
@dataclass(frozen=True)
class ContrastivePair(ModalityRetriever):
    """Near demonstrations, each followed by its nearest member of another label."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError where the pool has a single label."""
        check_two_labels(pool, "contrastive_pair")
        return fit_similarity(self, pool, resources)

    def pick(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        fitted = near.fitted
        (asked,) = fitted.asked([near.query]).astype(np.float64)
        rows = list(islice(self._pairs(near), k))
        scores = (fitted.index.vectors[rows] * asked).sum(axis=1)
        return [
            RetrievedExample(fitted.pool.examples[row].id, round(float(score), 6))
            for row, score in zip(rows, scores, strict=True)
        ]

    def _pairs(self, near: Neighbors) -> Iterator[int]:
        shown: set[int] = set()
        for row in near.rows.tolist():
            if row not in shown:
                shown.add(row)
                yield row
                partner = self._partner(near, row, shown)
                if partner is not None:
                    shown.add(partner)
                    yield partner

    def _partner(self, near: Neighbors, row: int, shown: set[int]) -> int | None:
        examples, is_allowed = near.fitted.pool.examples, near.fitted.filter_for(near.query, near.policy)
        label = examples[row].class_name

        def may(other: int) -> bool:
            return other not in shown and examples[other].class_name != label and is_allowed(other)

        (found,) = near.fitted.index.nearest(near.fitted.index.vectors[row : row + 1], 1, [may])
        return found[0][0] if found else None
