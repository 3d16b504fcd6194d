"""The most diverse subset of the nearest members (Li and Qiu, 2023; Qin et al., NeurIPS 2024: top 10, keep 3).

Among all subsets of k of the nearest `candidates`, the one with the smallest sum of pairwise cosines, ordered by
relevance. The sets are not nested: the best pair need not be part of the best triple.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.greedy_selection import most_diverse_subset
from retrievers.machinery.similarity import CandidateSetRetriever, Neighbors


@component("retriever", "diverse_subset")
@dataclass(frozen=True, kw_only=True)
class DiverseSubset(CandidateSetRetriever):
    """The most diverse subset of the nearest candidates, by comparing all subsets."""

    nested: ClassVar[bool] = False

    candidates: Annotated[int, Ge(1), Le(16)] = 10  # all their subsets of k are compared

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return neighbors.retrieved(most_diverse_subset(neighbors.vectors, k))
