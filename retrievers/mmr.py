"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): near to the query, far from selected members.

    next = argmax over x not in S of   l cos(q, x) - (1 - l) max over s in S of cos(x, s)

The first member is the most relevant one (the maximum over an empty set is 0). Both terms are the same cosine. A score
is the relevance. The set is selected from the nearest `candidates`; if there are fewer than k, the next nearest follow.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.registry import Fraction, component
from icl.types import RetrievedExample
from retrievers.machinery.greedy_selection import mmr
from retrievers.machinery.similarity import CandidateSetRetriever, Neighbors


@component("retriever", "mmr")
@dataclass(frozen=True, kw_only=True)
class MMR(CandidateSetRetriever):
    """Demonstrations near to the query and far from each other (maximal marginal relevance)."""

    ranked: ClassVar[bool] = False

    balance: Fraction  # l: 1 is knn; 0 is only diversity after the first

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return neighbors.retrieved(mmr(neighbors.scores, neighbors.vectors, k, self.balance))
