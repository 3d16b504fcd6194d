"""Rerankers that read the vectors of the candidates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from icl import Fraction, NestedComponent, Pool, Query, RetrievedExample, component
from retrievers import MODALITIES_OF, EmbeddingSource, Encoder, check_modalities, embed_by_modality, open_source
from retrievers.base import Embedder, Resources, RetrievedDemos, Vectors
from retrievers.machinery.greedy_selection import mmr, select_dissimilar


@dataclass(frozen=True, kw_only=True)
class VectorReranker:
    """Base of rerankers that select candidates by their vectors. A subclass defines `select`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})

    by: Literal["image", "question", "both"] = "image"  # what is compared
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, MODALITIES_OF[self.by], f"by is '{self.by}', and ")

    def fit(self, pool: Pool, resources: Resources) -> "FittedVectorReranker":
        return FittedVectorReranker(self, pool, open_source(self.embedder, resources.cache, pool))

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        """Positions of at most k candidates in their new order. vectors: [C, D], one unit row per candidate."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedVectorReranker:
    """A vector reranker that is fitted on a pool."""

    reranker: VectorReranker
    pool: Pool
    source: EmbeddingSource

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        return [self._rerank_one(demos, k) for demos in candidates]

    def _rerank_one(self, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        vectors = embed_by_modality([self.pool.by_id[demo.id] for demo in candidates], self.source, self.reranker.by)
        return tuple(candidates[position] for position in self.reranker.select(candidates, vectors, k))


@component("reranker", "diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(VectorReranker):
    """Candidates with high scores and far from each other (maximal marginal relevance).

    Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) among candidates of any retriever.

        next = argmax over x not in S of   l score(x) - (1 - l) max over s in S of cos(x, s)

    The relevance is the score of the retriever, which should be a similarity of at most 1 (the score of `bm25` is not).

    No released code.
    """

    balance: Fraction  # l: 1 keeps the order of the retriever; 0 is only diversity after the first

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return mmr(np.array([demo.score for demo in candidates]), vectors, k, self.balance)


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True, kw_only=True)
class NearDuplicateCap(VectorReranker):
    """Candidates without near-duplicates of better candidates.

    Near-duplicate cap: a candidate that nearly repeats a better one is dropped.

    In the order of rank, a candidate is dropped if its cosine with a candidate that was kept is strictly above the
    threshold. Dropped candidates do not fill up the set, so fewer than k may remain.
    """

    returns_k: ClassVar[bool] = False  # may return fewer than k

    threshold: Fraction = 0.95  # candidates with a larger cosine are near-duplicates

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return select_dissimilar(vectors, k, self.threshold)
