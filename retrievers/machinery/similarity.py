"""Similarity retrieval: embed the pool and the queries, search the nearest examples, select k of them.

    pool ── embed_documents ──> VectorIndex ─┐
                                             ├─ nearest ──> Neighbors ── select ──> k demonstrations
    queries ── embed_queries ────────────────┘

A retriever subclasses `SimilarityRetriever` (or `ModalityRetriever`, which embeds images, questions or both) and
overrides the steps that differ:

    embed_documents, embed_queries    what is compared
    num_candidates                    how many of the nearest examples `select` can choose from
    is_eligible                       which examples may be demonstrations
    select                            which of the candidates are returned

This module does the rest: it caches vectors and indexes, applies the leak policy, and raises the errors. The index
(`retrievers.machinery.vector_index`) has the similarity measure, filters during the search, and breaks ties by the
order of the pool.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from icl.constraints import Fraction
from icl.errors import ConfigError, PlanError
from icl.registry import NestedComponent
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import EXCLUDE_LEAKS, Embedder, FittedRetriever, LeakPolicy, Resources, RetrievedDemos
from retrievers.embedders.encoder import Encoder
from retrievers.machinery.demo_text import TextField
from retrievers.machinery.embedding_source import (
    MODALITIES_OF,
    EmbeddingSource,
    check_modalities,
    for_text,
    open_source,
    source_key,
)
from retrievers.machinery.vector_index import Search, VectorIndex, build_index
from retrievers.machinery.vector_math import Vectors

Scores = NDArray[np.float64]

_INDEXES: "WeakKeyDictionary[Pool, dict[Hashable, tuple[EmbeddingSource, VectorIndex]]]" = WeakKeyDictionary()
"""The indexes of all pools in use. Runs with another seed or number of shots share an index."""


@dataclass(frozen=True)
class SimilarityRetriever:
    """Base of retrievers that return examples of the pool by their similarity to the query.

    Attributes:
        needs: The resources that `fit` reads (`retrievers.base.Resources`).
        nested: The k-shot set is the beginning of larger sets.
        ranked: The scores decrease.
        returns_k: Fewer than k demonstrations are an error.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = True
    returns_k: ClassVar[bool] = True

    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors
    search: Search = "exact"  # or approximate: hnsw, ivf (see retrievers.machinery.vector_index)

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that the embedder must read: 'image', 'text'."""
        return frozenset({"image"})

    @property
    def compared_text(self) -> TextField:
        """The text of an example that is embedded, if any is."""
        return "question"

    @property
    def index_key(self) -> Hashable:
        """Identifies the vectors of the pool. Override it if a setting changes them: equal keys share an index."""
        return type(self).__name__

    @property
    def error_prefix(self) -> str:
        """Text before an error about the embedder, such as "by is 'both', and "."""
        return ""

    def __post_init__(self) -> None:
        check_modalities(self.embedder, self.modalities, self.error_prefix)

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        return fit_similarity(self, pool, resources)

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Fill the vector cache for many small pools and their queries in large batches, before each pool is fitted."""
        members = {item.id: item for item in items if isinstance(item, Example)}
        embedder = for_text(self.embedder, self.compared_text)
        source = open_source(embedder, resources.cache, Pool(tuple(members.values())))
        self.embed_documents(list(members.values()), source)
        self.embed_queries([item for item in items if isinstance(item, Query)], source)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        """Embed the examples of a pool.

        Returns:
            [N, D] float32, unit rows.
        """
        raise NotImplementedError

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        """Embed queries, by default like examples of the pool.

        Returns:
            [Q, D] float32, unit rows. The dot product of a query and an example is the score.
        """
        return self.embed_documents(queries, source)  # type: ignore[arg-type]

    def is_eligible(self, example: Example, query: Query) -> bool:
        """Whether an example may be a demonstration of the query. The leak policy is checked as well."""
        return True

    def num_candidates(self, k: int) -> int:
        """How many of the nearest examples `select` can choose from."""
        return k

    def select(self, neighbors: "Neighbors", k: int) -> Sequence[RetrievedExample]:
        """Select k of the nearest examples, best first. There are at least k, unless `returns_k` is False."""
        return neighbors.retrieved(range(k))

    def too_few(self, pool: Pool, query: Query, k: int, policy: LeakPolicy) -> PlanError:
        """The error for a pool that has fewer than k eligible examples for a query."""
        return policy.too_few(pool, query, k)


@dataclass(frozen=True)
class Neighbors:
    """The nearest examples of the pool for one query, best first. A position is a place in this order.

    rows: [C], their rows in the pool. scores: [C] float64.
    """

    fitted: "FittedSimilarity"
    query: Query
    rows: NDArray[np.int64]
    scores: Scores
    policy: LeakPolicy

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vectors(self) -> Vectors:
        """[C, D], the vectors of the examples."""
        return np.asarray(self.fitted.index.vectors[self.rows])

    def example(self, position: int) -> Example:
        return self.fitted.pool.examples[int(self.rows[position])]

    def search_whole_pool(self) -> "Neighbors":
        """All examples of the pool that may be demonstrations of the query."""
        (neighbors,) = self.fitted.nearest([self.query], len(self.fitted.index), self.policy)
        return neighbors

    def retrieved(self, positions: Sequence[int], mark: str = "") -> list[RetrievedExample]:
        """The examples at these positions as results. mark: a remark that each carries into its sample."""
        return [RetrievedExample(self.example(i).id, round(float(self.scores[i]), 6), mark) for i in positions]


@dataclass(frozen=True)
class FittedSimilarity:
    """A similarity retriever that is fitted on a pool: an index over the vectors of the pool."""

    retriever: SimilarityRetriever
    pool: Pool
    source: EmbeddingSource
    index: VectorIndex

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if not queries or k == 0:
            return [() for _ in queries]
        nearest = self.nearest(queries, self.retriever.num_candidates(k), policy)
        return [self.select_demos(neighbors, k) for neighbors in nearest]

    def nearest(self, queries: Sequence[Query], count: int, policy: LeakPolicy) -> list[Neighbors]:
        """The `count` nearest examples of each query that may be demonstrations; all of them if there are fewer."""
        vectors = self.embed_queries(queries)
        if vectors.shape[1] != self.index.vectors.shape[1]:
            raise ConfigError(
                f"{self.retriever.embedder!r} embeds queries in {vectors.shape[1]} dimensions and demonstrations in "
                f"{self.index.vectors.shape[1]}: they are not in one space. Use an encoder of both (encoder)."
            )
        hits = self.index.nearest(vectors, count, [self.filter_for(query, policy) for query in queries])
        return [
            Neighbors(
                self,
                query,
                np.array([row for row, _ in query_hits], np.int64),
                np.array([score for _, score in query_hits], np.float64),
                policy,
            )
            for query, query_hits in zip(queries, hits, strict=True)
        ]

    def embed_queries(self, queries: Sequence[Query]) -> Vectors:
        """[Q, D], unit rows in the space of the index."""
        return self.retriever.embed_queries(queries, self.source)

    def filter_for(self, query: Query, policy: LeakPolicy) -> Callable[[int], bool]:
        """A filter of rows: whether an example may be a demonstration of the query."""
        examples, is_allowed, is_eligible = self.pool.examples, policy.allowed_for(query), self.retriever.is_eligible
        return lambda row: is_eligible(examples[row], query) and is_allowed(examples[row])

    def select_demos(self, neighbors: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        """Select the demonstrations of one query, after a check that there are enough neighbors."""
        if len(neighbors) < k and self.retriever.returns_k:
            raise self.retriever.too_few(self.pool, neighbors.query, k, neighbors.policy)
        return tuple(self.retriever.select(neighbors, k))


def fit_similarity(retriever: SimilarityRetriever, pool: Pool, resources: Resources) -> FittedSimilarity:
    """Fit a similarity retriever. While a pool is in use, each of its indexes is built once."""
    indexes = _INDEXES.setdefault(pool, {})
    embedder = for_text(retriever.embedder, retriever.compared_text)
    key = (*source_key(embedder, resources.cache), retriever.index_key, retriever.search)
    if key not in indexes:
        source = open_source(embedder, resources.cache, pool)
        indexes[key] = source, build_index(retriever.embed_documents(pool.examples, source), retriever.search)
    return FittedSimilarity(retriever, pool, *indexes[key])


@dataclass(frozen=True)
class ModalityRetriever(SimilarityRetriever):
    """Base of retrievers that compare images, questions, or both (the weighted mean of the two cosines)."""

    by: Literal["image", "question", "both"] = "image"  # what is compared
    weight: Fraction = 0.5  # of the image's cosine where by is 'both'

    @property
    def modalities(self) -> frozenset[str]:
        return MODALITIES_OF[self.by]

    @property
    def index_key(self) -> Hashable:
        return ("by", self.by, self.weight if self.by == "both" else None)

    @property
    def error_prefix(self) -> str:
        return f"by is '{self.by}', and "

    def embed_documents(self, examples: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return embed_by_modality(examples, source, self.by, self.weight)


def embed_by_modality(
    items: Sequence[Query | Example], source: EmbeddingSource, by: str, weight: float = 0.5
) -> Vectors:
    """Vectors whose dot product is the cosine of images, the cosine of questions, or the weighted mean of both.

    Args:
        by: 'image', 'question' or 'both'.
        weight: The weight of the cosine of images if `by` is 'both'.

    Returns:
        [N, D] float32; for 'both' the two vectors side by side, [N, D_image + D_question].
    """
    if by == "image":
        return source.embed_images(items)
    questions = source.embed_texts([item.question for item in items])
    if by == "question":
        return questions
    images = source.embed_images(items)
    return np.hstack([images * np.float32(weight**0.5), questions * np.float32((1 - weight) ** 0.5)])
