"""From image to text: the query's image against what demonstrations say (cross-modal retrieval with CLIP).

    score(q, x) = cos(image_q, text_x)

The text of a demonstration is its answer (a caption), its question, or both. An encoder with one space for images and
texts is needed; its modality gap moves all scores alike and leaves the ranking (see the embedder `centered`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.demo_text import demo_text
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.similarity import SimilarityRetriever
from retrievers.machinery.vector_math import Vectors


@component("retriever", "i2t")
@dataclass(frozen=True)
class ImageToText(SimilarityRetriever):
    """The query's image against the demonstrations' text."""

    text: Literal["answer", "question", "both"] = "answer"  # what of a demonstration is compared

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"image", "text"})

    @property
    def key(self) -> Hashable:
        return ("i2t", self.text)

    def documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([demo_text(example, self.text) for example in examples])

    def asked(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(queries)
