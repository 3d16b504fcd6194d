"""Near-duplicate cap: a candidate that all but repeats a better one is dropped.

In the order of rank, a candidate whose cosine with one already kept is strictly above the threshold goes, and does not
come back to fill up: fewer than k may be left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.params import Share
from icl.registry import component
from icl.types import Scored
from retrievers.rerankers.comparing import Comparing
from retrievers.selection import apart
from retrievers.vectors import Vectors


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True, kw_only=True)
class NearDuplicateCap(Comparing):
    """Candidates that all but repeat a better one are dropped."""

    exact: ClassVar[bool] = False  # may give fewer than k

    threshold: Share = 0.95  # a cosine above it is a repetition

    def choose(self, candidates: Sequence[Scored], vectors: Vectors, k: int) -> Sequence[int]:
        return apart(vectors, k, self.threshold)
