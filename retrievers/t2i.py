"""From text to image: compares the query's question with the images of demonstrations (cross-modal retrieval, CLIP).

    score(q, x) = cos(question_q, image_x)

The encoder must have one space for images and texts.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from icl.registry import component
from icl.types import Example, Query
from retrievers.base import Vectors
from retrievers.machinery.embeddings import EmbeddingSource
from retrievers.machinery.similarity import SimilarityRetriever


@component("retriever", "t2i")
@dataclass(frozen=True)
class TextToImage(SimilarityRetriever):
    """Demonstrations with the images nearest to the query's question."""

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"image", "text"})

    @property
    def index_key(self) -> Hashable:
        return ("compared", "image", None)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(examples)

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([query.question for query in queries])
