"""Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) among what any retriever found.

    next = argmax over x not in S of   l score(x) - (1 - l) max over s in S of cos(x, s)

The relevance is the retriever's own score, which should be a similarity up to 1 (that of `bm25` is not).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.constraints import Fraction
from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.greedy_selection import mmr
from retrievers.machinery.vector_math import Vectors
from retrievers.rerankers.vector_reranker import VectorReranker


@component("reranker", "diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(VectorReranker):
    """Good by the retriever's score and far from each other (maximal marginal relevance)."""

    balance: Fraction  # l: 1 keeps the retriever's order, 0 is diversity alone after the first

    def choose(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return mmr(np.array([one.score for one in candidates]), vectors, k, self.balance)
