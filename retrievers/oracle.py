"""The oracle: nearest by the gold answer (Li et al. 2024; Baldassini et al. 2024), an upper bound of answer copying.

    score(q, x) = cos(answer_q, answer_x)

It reads the gold answer of the query and declares it in `needs`. Its results are a bound for other retrievers and are
not comparable with them.

No released code was compared.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.errors import PlanError
from icl.registry import component
from icl.types import Example, Query
from retrievers.base import Vectors
from retrievers.machinery.embeddings import EmbeddingSource
from retrievers.machinery.similarity import SimilarityRetriever


@component("retriever", "oracle")
@dataclass(frozen=True)
class Oracle(SimilarityRetriever):
    """Nearest by the gold answer of the query: an upper bound."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "gold"})

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"text"})

    @property
    def index_key(self) -> Hashable:
        return ("answers",)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([example.answer for example in examples])

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        gold_answers = [query.answer for query in queries if isinstance(query, Example)]
        if len(gold_answers) < len(queries):
            raise PlanError("retriever 'oracle' needs the gold answers, but the queries have none. Pass examples.")
        return source.embed_texts(gold_answers)
