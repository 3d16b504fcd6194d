"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): near to the query, far from what was chosen.

    next = argmax over x not in S of   l cos(q, x) - (1 - l) max over s in S of cos(x, s)

The first is the most relevant (the maximum over nothing is 0), both terms are the same cosine, and a score is the
relevance. Chosen among the nearest `candidates`; where these run out, the next nearest follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.constraints import Fraction
from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.candidate_sets import CandidateSetRetriever
from retrievers.machinery.greedy_selection import mmr
from retrievers.machinery.similarity import Neighbors


@component("retriever", "mmr")
@dataclass(frozen=True, kw_only=True)
class MMR(CandidateSetRetriever):
    """Near to the query and far from each other, by a stated balance (maximal marginal relevance)."""

    ranked: ClassVar[bool] = False

    balance: Fraction  # l: 1 is knn, 0 is diversity alone after the first

    def choose(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return near.given(mmr(near.scores, near.vectors, k, self.balance))
