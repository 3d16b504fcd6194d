"""Two stages: candidates by one modality, ranked by the other (MMICES, Chen et al. 2023; SI-Q, Li et al. 2024).

    the `candidates` nearest members by `first`, then the k best of them by the cosine of the other modality

The result has the order and the scores of the second modality. The papers and their re-implementations keep 200 or 32
candidates, so `candidates` has no default: set it, or use a preset.

No released code was compared. A re-implementation averages its text vectors over padding too, so they depend on the
batch; these do not.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from icl import Example, PlanError, Pool, PositiveInt, Query, RetrievedExample, component
from retrievers import EXCLUDE_LEAKS, EmbeddingSource, LeakPolicy, Resources, RetrievedDemos, Vectors
from retrievers.machinery.similarity import (
    FittedSimilarity,
    Neighbors,
    SimilarityRetriever,
    embed_by_modality,
    fit_similarity,
)
from retrievers.nearest import KNN


@component("retriever", "mmices")
@dataclass(frozen=True, kw_only=True)
class MMICES(SimilarityRetriever):
    """Candidates by image, ranked by question (MMICES), or the other way round."""

    candidates: PositiveInt  # how many members the first stage keeps
    first: Literal["image", "question"] = "image"  # what the first stage compares; the second compares the other

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mmices": {"candidates": 200},  # the public re-implementation of MMICES
        "si_q": {"candidates": 32},  # similar image, then question; the introspection paper uses the same number
        "sq_i": {"candidates": 32, "first": "question"},
    }
    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    @property
    def index_key(self) -> Hashable:
        return ("compared", self.first, None)

    def fit(self, pool: Pool, resources: Resources) -> "FittedMMICES":
        other = KNN(embedder=self.embedder, by="question" if self.first == "image" else "image")
        first = fit_similarity(self, pool, resources)
        return FittedMMICES(first, fit_similarity(other, pool, resources), self.candidates)

    def embed_documents(self, examples: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return embed_by_modality(examples, source, self.first)


@dataclass(frozen=True)
class FittedMMICES:
    """Two indexes over one pool, one for each stage."""

    first: FittedSimilarity
    second: FittedSimilarity
    candidates: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if not queries or k == 0:
            return [() for _ in queries]
        vectors = self.second.embed_queries(queries).astype(np.float64)
        nearest = self.first.nearest(queries, max(self.candidates, k), policy)
        return [self._rank(neighbors, vector, k) for neighbors, vector in zip(nearest, vectors, strict=True)]

    def _rank(
        self, neighbors: Neighbors, vector: "np.ndarray[Any, np.dtype[np.float64]]", k: int
    ) -> tuple[RetrievedExample, ...]:
        if len(neighbors) < k:
            raise self.first.retriever.too_few(self.first.pool, neighbors.query, k, neighbors.policy)
        if self.candidates < k:
            raise PlanError(
                f"'mmices' keeps {self.candidates} candidates, but {k} shots are requested. Increase candidates."
            )
        rows = np.sort(neighbors.rows[: self.candidates])
        scores = (self.second.index.vectors[rows] * vector).sum(axis=1)
        best = np.argsort(-scores, kind="stable")[:k]
        return tuple(replace(neighbors, rows=rows[best], scores=scores[best]).retrieved(range(k)))
