"""Retrievers that read images and texts of the members: MMICES, and RA-CM3."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from icl import ConfigError, Example, Fraction, PlanError, Pool, PositiveInt, Query, RetrievedExample, component
from retrievers import (
    EXCLUDE_LEAKS,
    EmbeddingSource,
    FittedSimilarity,
    LeakPolicy,
    Neighbors,
    Resources,
    RetrievedDemos,
    SimilarityRetriever,
    Vectors,
    embed_by_modality,
    fit_similarity,
    normalize_rows,
    select_dissimilar,
)
from retrievers.nearest import KNN


@component("retriever", "mmices")
@dataclass(frozen=True, kw_only=True)
class MMICES(SimilarityRetriever):
    """Candidates by image, ranked by question (MMICES), or the other way round.

    The two stages of MMICES (Chen et al. 2023) and SI-Q (Li et al. 2024):

        the `candidates` nearest members by `first`, then the k best of them by the cosine of the other modality

    The result has the order and the scores of the second modality. The papers and their re-implementations keep 200 or
    32 candidates, so `candidates` has no default: set it, or use a preset.

    No released code was compared. A re-implementation averages its text vectors over padding too, so they depend on the
    batch; these do not.
    """

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


MARK = "ra_cm3: fewer demonstrations than shots"


@component("retriever", "ra_cm3")
@dataclass(frozen=True, kw_only=True)
class RaCM3(SimilarityRetriever):
    """Demonstrations near in image and text together, without near-duplicates of the query or each other (RA-CM3).

    Relevance, modality, diversity: the retrieval of RA-CM3 (Yasunaga et al., ICML 2023; as CM3Leon describes it).

        document = unit(unit(image) + unit(text)),    query: the same,    relevance = cosine

    Only members with an image and a text are candidates. A member is dropped if its cosine with the query, or with a
    selected member, is above `limit`. The mean is normalized again: without it, the inner product of a document with
    itself is (1 + cos(image, text)) / 2, and the limit has no effect. If too few members remain, fewer than k are
    returned, and the first one has a mark.

    No released code.
    """

    returns_k: ClassVar[bool] = False
    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    limit: Fraction = 0.9  # members with a larger cosine are near-duplicates

    def embed_documents(self, examples: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        texts = source.embed_texts([item.question for item in examples])
        with_image = [i for i, item in enumerate(examples) if item.images]
        if not with_image:
            return texts
        images = source.embed_images([examples[i] for i in with_image])
        if images.shape[1] != texts.shape[1]:
            raise ConfigError(
                f"retriever 'ra_cm3' adds image and text vectors, and {self.embedder!r} gives "
                f"{images.shape[1]} and {texts.shape[1]} dimensions. Use an embedder with one space for both (encoder)."
            )
        texts = texts.copy()
        texts[with_image] += images
        return normalize_rows(texts)

    def is_eligible(self, example: Example, query: Query) -> bool:
        return bool(example.images and example.question.strip())

    def num_candidates(self, k: int) -> int:
        return 16 * k + 64

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        selected = self._without_duplicates(neighbors, k)
        if len(selected) < k and len(neighbors) >= self.num_candidates(
            k
        ):  # many near-duplicates: search the whole pool
            neighbors = neighbors.search_whole_pool()
            selected = self._without_duplicates(neighbors, k)
        return neighbors.retrieved(selected[:1], MARK if len(selected) < k else "") + neighbors.retrieved(selected[1:])

    def _without_duplicates(self, neighbors: Neighbors, k: int) -> list[int]:
        skip = int((neighbors.scores > self.limit).sum())
        rest = replace(neighbors, rows=neighbors.rows[skip:], scores=neighbors.scores[skip:])
        return [skip + position for position in select_dissimilar(rest.vectors, k, self.limit)]
