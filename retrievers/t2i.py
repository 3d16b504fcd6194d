"""From text to image: the query's question against the demonstrations' images (cross-modal retrieval with CLIP).

    score(q, x) = cos(question_q, image_x)

An encoder with one space for images and texts is needed.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.similarity import SimilarityRetriever
from retrievers.machinery.vector_math import Vectors


@component("retriever", "t2i")
@dataclass(frozen=True)
class TextToImage(SimilarityRetriever):
    """The query's question against the demonstrations' images."""

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"image", "text"})

    @property
    def key(self) -> Hashable:
        return ("compared", "image", None)

    def documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(examples)

    def asked(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([query.question for query in queries])
