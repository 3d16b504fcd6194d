"""Base of rerankers that compare the candidates of a query with each other by their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from icl.registry import NestedComponent
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Embedder, Resources, RetrievedDemos, Vectors
from retrievers.machinery.embeddings import MODALITIES_OF, EmbeddingSource, check_modalities, open_source
from retrievers.machinery.encoder import Encoder
from retrievers.machinery.similarity import embed_by_modality


@dataclass(frozen=True, kw_only=True)
class VectorReranker:
    """Base of rerankers that select candidates by their vectors. A subclass defines `select`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})

    by: Literal["image", "question", "both"] = "image"  # what is compared
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, MODALITIES_OF[self.by], f"by is '{self.by}', and ")

    def fit(self, pool: Pool, resources: Resources) -> "FittedVectorReranker":
        return FittedVectorReranker(self, pool, open_source(self.embedder, resources.cache, pool))

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        """Positions of at most k candidates in their new order. vectors: [C, D], one unit row per candidate."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedVectorReranker:
    """A vector reranker that is fitted on a pool."""

    reranker: VectorReranker
    pool: Pool
    source: EmbeddingSource

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        return [self._rerank_one(demos, k) for demos in candidates]

    def _rerank_one(self, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        vectors = embed_by_modality([self.pool.by_id[demo.id] for demo in candidates], self.source, self.reranker.by)
        return tuple(candidates[position] for position in self.reranker.select(candidates, vectors, k))
