"""Near-duplicate cap: a candidate that all but repeats a better one is dropped.

In the order of rank, a candidate whose cosine with one already kept is strictly above the threshold goes, and does not
come back to fill up: fewer than k may be left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.constraints import Fraction
from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.greedy_selection import select_dissimilar
from retrievers.machinery.vector_math import Vectors
from retrievers.rerankers.vector_reranker import VectorReranker


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True, kw_only=True)
class NearDuplicateCap(VectorReranker):
    """Candidates that all but repeat a better one are dropped."""

    exact: ClassVar[bool] = False  # may give fewer than k

    threshold: Fraction = 0.95  # a cosine above it is a repetition

    def choose(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return select_dissimilar(vectors, k, self.threshold)
