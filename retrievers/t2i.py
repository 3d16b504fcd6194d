"""From text to picture: the query's question against the demonstrations' pictures (cross-modal retrieval with CLIP).

    score(q, x) = cos(question_q, picture_x)

An encoder with one space for pictures and texts is needed.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.embedding_source import Source
from retrievers.machinery.similarity import Near
from retrievers.machinery.vector_math import Vectors


@component("retriever", "t2i")
@dataclass(frozen=True)
class TextToPicture(Near):
    """The query's question against the demonstrations' pictures."""

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"picture", "text"})

    @property
    def key(self) -> Hashable:
        return ("compared", "picture", None)

    def documents(self, examples: Sequence[Example], source: Source) -> Vectors:
        return source.pictures(examples)

    def asked(self, queries: Sequence[Query | Example], source: Source) -> Vectors:
        return source.texts([query.question for query in queries])
