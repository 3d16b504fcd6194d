"""Contrastive pairs: each demonstration is followed by its nearest neighbor with another label.

    d1, p1, d2, p2, ...    d: nearest to the query, not yet used    p: nearest to d with another label, not yet used

A partner is near to its demonstration, not to the query, so a pair differs in little but the label (the contrastive
demonstrations of Bitton et al. 2024 for compositional tasks, without a caption generator). No gold answer is read. A
score is the similarity to the query. An odd number of shots ends with a demonstration without a partner.

No released code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from icl import Pool, RetrievedExample, component
from retrievers import FittedSimilarity, ModalityRetriever, Neighbors, Resources, fit_similarity
from retrievers.hard_negative import check_two_labels


@component("retriever", "contrastive_pair")
@dataclass(frozen=True)
class ContrastivePair(ModalityRetriever):
    """Near demonstrations, each followed by its nearest neighbor with another label."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError if the pool has a single label."""
        check_two_labels(pool, "contrastive_pair")
        return fit_similarity(self, pool, resources)

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        fitted = neighbors.fitted
        (query_vector,) = fitted.embed_queries([neighbors.query]).astype(np.float64)
        rows = list(islice(self._pairs(neighbors), k))
        scores = (fitted.index.vectors[rows] * query_vector).sum(axis=1)
        return [
            RetrievedExample(fitted.pool.examples[row].id, round(float(score), 6))
            for row, score in zip(rows, scores, strict=True)
        ]

    def _pairs(self, neighbors: Neighbors) -> Iterator[int]:
        used: set[int] = set()
        for row in neighbors.rows.tolist():
            if row not in used:
                used.add(row)
                yield row
                partner = self._partner(neighbors, row, used)
                if partner is not None:
                    used.add(partner)
                    yield partner

    def _partner(self, neighbors: Neighbors, row: int, used: set[int]) -> int | None:
        fitted = neighbors.fitted
        examples, is_allowed = fitted.pool.examples, fitted.filter_for(neighbors.query, neighbors.policy)
        label = examples[row].class_name

        def can_be_partner(other: int) -> bool:
            return other not in used and examples[other].class_name != label and is_allowed(other)

        (hits,) = fitted.index.nearest(fitted.index.vectors[row : row + 1], 1, [can_be_partner])
        return hits[0][0] if hits else None
