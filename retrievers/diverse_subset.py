"""Relevant, then as unlike each other as possible (Li and Qiu, 2023; Qin et al., NeurIPS 2024: top 10, keep 3).

Of the nearest `candidates`, the set of k with the smallest sum of pairwise cosines, found among all such sets and shown
by relevance. Not nested: the best pair need not be part of the best triple.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.candidate_sets import CandidateSetRetriever
from retrievers.machinery.greedy_selection import most_diverse_subset
from retrievers.machinery.similarity import Neighbors


@component("retriever", "diverse_subset")
@dataclass(frozen=True, kw_only=True)
class VarianceHead(CandidateSetRetriever):
    """The most diverse set of the nearest few, every set tried."""

    nested: ClassVar[bool] = False

    candidates: Annotated[int, Ge(1), Le(16)] = 10  # all their subsets of k are compared

    def choose(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return near.given(most_diverse_subset(near.vectors, k))
