"""The oracle: nearest by the true answer (Li et al. 2024; Baldassini et al. 2024), an upper bound of answer copying.

    score(q, x) = cos(answer_q, answer_x)

It reads the query's gold and declares it. A number reached with it is a bound on the others, not one of them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.errors import PlanError
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.similarity import SimilarityRetriever
from retrievers.machinery.vector_math import Vectors


@component("retriever", "oracle")
@dataclass(frozen=True)
class Oracle(SimilarityRetriever):
    """Nearest by the gold answer: sees the gold, an upper bound."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "gold"})

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"text"})

    @property
    def key(self) -> Hashable:
        return ("answers",)

    def documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([example.answer for example in examples])

    def asked(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        answers = [query.answer for query in queries if isinstance(query, Example)]
        if len(answers) < len(queries):
            raise PlanError("retriever 'oracle' reads the gold and was asked without it. Give it examples.")
        return source.embed_texts(answers)
