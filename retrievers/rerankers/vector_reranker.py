"""What rerankers share that compare the candidates of a query with one another, by the vectors of an embedder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from icl.registry import NestedComponent
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Embedder, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.machinery.embedding_source import READ, EmbeddingSource, check_modalities, open_source
from retrievers.machinery.similarity import embed_by_modality
from retrievers.machinery.vector_math import Vectors


@dataclass(frozen=True, kw_only=True)
class VectorReranker:
    """Base of rerankers that say, in `choose`, which candidates stay."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})

    by: Literal["image", "question", "both"] = "image"  # what is compared
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, READ[self.by], f"by is '{self.by}', and ")

    def fit(self, pool: Pool, resources: Resources) -> "FittedVectorReranker":
        return FittedVectorReranker(self, pool, open_source(self.embedder, resources.cache, pool))

    def choose(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        """Places of at most k candidates, in their new order. vectors: [C, D] unit rows, one a candidate."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedVectorReranker:
    """The vectors of one pool."""

    reranker: VectorReranker
    pool: Pool
    source: EmbeddingSource

    def rerank(
        self, queries: Sequence[Query], found: Sequence[Sequence[RetrievedExample]], k: int
    ) -> list[tuple[RetrievedExample, ...]]:
        return [self._one(candidates, k) for candidates in found]

    def _one(self, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        if not candidates:
            return ()
        vectors = embed_by_modality([self.pool.by_id[one.id] for one in candidates], self.source, self.reranker.by)
        return tuple(candidates[place] for place in self.reranker.choose(candidates, vectors, k))
