"""Relevance, modality, diversity: the retrieval of RA-CM3 (Yasunaga et al., ICML 2023; as CM3Leon describes it).

    document = unit(unit(image) + unit(text)),    query: the same,    relevance = cosine

Only members with an image and a text are candidates. A member is dropped if its cosine with the query, or with a
selected member, is above `limit`. The mean is normalized again: without it, the inner product of a document with itself
is (1 + cos(image, text)) / 2, and the limit has no effect. If too few members remain, fewer than k are returned, and
the first one has a mark.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from icl import ConfigError, Example, Fraction, Query, RetrievedExample, component
from retrievers import EmbeddingSource, Neighbors, SimilarityRetriever, Vectors, normalize_rows, select_dissimilar

MARK = "ra_cm3: fewer demonstrations than shots"


@component("retriever", "ra_cm3")
@dataclass(frozen=True, kw_only=True)
class RaCM3(SimilarityRetriever):
    """Demonstrations near in image and text together, without near-duplicates of the query or each other (RA-CM3)."""

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
