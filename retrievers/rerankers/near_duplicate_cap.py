"""Near-duplicate cap: a candidate that nearly repeats a better one is dropped.

In the order of rank, a candidate is dropped if its cosine with a candidate that was kept is strictly above the
threshold. Dropped candidates do not fill up the set, so fewer than k may remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.registry import Fraction, component
from icl.types import RetrievedExample
from retrievers.base import Vectors
from retrievers.machinery.greedy_selection import select_dissimilar
from retrievers.rerankers.vector_reranker import VectorReranker


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True, kw_only=True)
class NearDuplicateCap(VectorReranker):
    """Candidates without near-duplicates of better candidates."""

    returns_k: ClassVar[bool] = False  # may return fewer than k

    threshold: Fraction = 0.95  # candidates with a larger cosine are near-duplicates

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return select_dissimilar(vectors, k, self.threshold)
