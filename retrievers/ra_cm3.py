"""Relevance, modality, diversity: the retrieval of RA-CM3 (Yasunaga et al., ICML 2023; as CM3Leon describes it).

    document = unit(unit(image) + unit(text)),    query likewise,    relevance = cosine

Only members with an image and a text; those whose relevance is above `limit` are too near to the query (its own copy)
and are dropped, then any above it to one already chosen. The mean is normalized again: a plain inner product of means
gives a document (1 + cos(image, text)) / 2 with itself, so that the limit would never act. When the pool is used up
fewer than k come back, and the first of them says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from icl.constraints import Fraction
from icl.errors import ConfigError
from icl.registry import component
from icl.types import Example, Query, RetrievedExample
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.greedy_selection import select_dissimilar
from retrievers.machinery.similarity import Neighbors, SimilarityRetriever
from retrievers.machinery.vector_math import Vectors, normalize_rows

MARK = "ra_cm3: fewer demonstrations than shots"


@component("retriever", "ra_cm3")
@dataclass(frozen=True, kw_only=True)
class RaCM3(SimilarityRetriever):
    """Near in image and text together, without near-copies of the query or of each other (RA-CM3)."""

    exact: ClassVar[bool] = False

    limit: Fraction = 0.9  # a cosine above it is a near-copy

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"image", "text"})

    def documents(self, examples: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        texts = source.embed_texts([item.question for item in examples])
        seen = [i for i, item in enumerate(examples) if item.images]
        if not seen:
            return texts
        images = source.embed_images([examples[i] for i in seen])
        if images.shape[1] != texts.shape[1]:
            raise ConfigError(
                f"retriever 'ra_cm3' adds image and text vectors, and {self.embedder!r} gives "
                f"{images.shape[1]} and {texts.shape[1]} entries. Use an embedder with one space for both (encoder)."
            )
        texts = texts.copy()
        texts[seen] += images
        return normalize_rows(texts)

    def is_eligible(self, example: Example, query: Query) -> bool:
        return bool(example.images and example.question.strip())

    def reach(self, k: int) -> int:
        return 16 * k + 64

    def pick(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        picked = self._apart(near, k)
        if len(picked) < k and len(near) >= self.reach(k):  # the near ones repeat each other: look at all
            near = near.all()
            picked = self._apart(near, k)
        return near.given(picked[:1], MARK if len(picked) < k else "") + near.given(picked[1:])

    def _apart(self, near: Neighbors, k: int) -> list[int]:
        skip = int((near.scores > self.limit).sum())
        rest = replace(near, rows=near.rows[skip:], scores=near.scores[skip:])
        return [skip + place for place in select_dissimilar(rest.vectors, k, self.limit)]
