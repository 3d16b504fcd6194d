"""From image to text: compares the query's image with the text of demonstrations (cross-modal retrieval, CLIP).

    score(q, x) = cos(image_q, text_x)

The text of a demonstration is its answer (a caption), its question, or both. The encoder must have one space for images
and texts. Its modality gap shifts all scores equally and does not change the ranking (see the embedder `centered`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from icl.registry import component
from icl.types import Example, Query
from retrievers.base import Vectors
from retrievers.machinery.embeddings import EmbeddingSource, TextField, demo_text
from retrievers.machinery.similarity import SimilarityRetriever


@component("retriever", "i2t")
@dataclass(frozen=True)
class ImageToText(SimilarityRetriever):
    """Demonstrations with the text nearest to the query's image."""

    text: TextField = "answer"  # which text of a demonstration is compared

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"image", "text"})

    @property
    def compared_text(self) -> TextField:
        return self.text

    @property
    def index_key(self) -> Hashable:
        return ("i2t", self.text)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([demo_text(example, self.text) for example in examples])

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(queries)
