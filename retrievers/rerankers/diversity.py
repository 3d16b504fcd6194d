"""Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) among candidates of any retriever.

    next = argmax over x not in S of   l score(x) - (1 - l) max over s in S of cos(x, s)

The relevance is the score of the retriever, which should be a similarity of at most 1 (the score of `bm25` is not).

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.registry import Fraction, component
from icl.types import RetrievedExample
from retrievers.base import Vectors
from retrievers.machinery.greedy_selection import mmr
from retrievers.rerankers.vector_reranker import VectorReranker


@component("reranker", "diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(VectorReranker):
    """Candidates with high scores and far from each other (maximal marginal relevance)."""

    balance: Fraction  # l: 1 keeps the order of the retriever; 0 is only diversity after the first

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return mmr(np.array([demo.score for demo in candidates]), vectors, k, self.balance)
