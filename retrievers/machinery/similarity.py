"""What all retrievers by similarity share: vectors of the pool, an index over them, and the nearest of each query.

A retriever says what its vectors are (`documents` of the pool, `asked` of the queries), how many of the nearest it
looks at (`reach`), and which of them it gives (`pick`). The rest is here: the cache, the index of a pool in use, the
exclusion of leaks, the errors.
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
from retrievers.base import Embedder, FittedRetriever, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.embedding_source import READ, EmbeddingSource, check_modalities, open_source, source_key
from retrievers.machinery.vector_index import Search, VectorIndex, build_index
from retrievers.machinery.vector_math import Vectors

Scores = NDArray[np.float64]

_INDEXES: "WeakKeyDictionary[Pool, dict[Hashable, tuple[EmbeddingSource, VectorIndex]]]" = WeakKeyDictionary()
"""What was fitted on a pool that is still in use: cells that differ in seed or shots share it."""


@dataclass(frozen=True)
class SimilarityRetriever:
    """Base of retrievers by similarity. `nested`, `ranked`: see `retrievers.machinery.conformance`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors
    search: Search = "exact"  # or approximate: hnsw, ivf (see retrievers.machinery.vector_index)

    @property
    def modalities(self) -> frozenset[str]:
        """What the embedder has to read: 'image', 'text'."""
        return frozenset({"image"})

    @property
    def key(self) -> Hashable:
        """Names the vectors: retrievers with equal keys and embedders share an index."""
        return type(self).__name__

    def __post_init__(self) -> None:
        check_modalities(self.embedder, self.modalities, self.told)

    @property
    def told(self) -> str:
        """What an error adds about the settings."""
        return ""

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        return fit_similarity(self, pool, resources)

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches, before each pool is fitted."""
        members = {item.id: item for item in items if isinstance(item, Example)}
        source = open_source(self.embedder, resources.cache, Pool(tuple(members.values())))
        self.documents(list(members.values()), source)
        self.asked([item for item in items if isinstance(item, Query)], source)

    def documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        """[N, D] unit rows of the pool."""
        raise NotImplementedError

    def asked(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        """[Q, D] unit rows of the queries; a dot product with a document is the score."""
        return self.documents(queries, source)  # type: ignore[arg-type]

    def is_eligible(self, example: Example, query: Query) -> bool:
        """Whether a member of the pool may be a demonstration of the query. The leak policy is checked besides."""
        return True

    def reach(self, k: int) -> int:
        """How many of the nearest `pick` sees."""
        return k

    def pick(self, near: "Neighbors", k: int) -> Sequence[RetrievedExample]:
        """k of the nearest, best first. There are k at least, unless `exact` is False."""
        return near.given(range(k))

    def too_few(self, pool: Pool, query: Query, k: int, policy: LeakPolicy) -> PlanError:
        """The error for a pool with fewer than k members for a query."""
        return policy.too_few(pool, query, k)


@dataclass(frozen=True)
class Neighbors:
    """The nearest members of one query. rows: places in the pool; scores: [C] float64, best first."""

    fitted: "FittedSimilarity"
    query: Query
    rows: NDArray[np.int64]
    scores: Scores
    policy: LeakPolicy

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vectors(self) -> Vectors:
        """[C, D] of the members."""
        return np.asarray(self.fitted.index.vectors[self.rows])

    def example(self, place: int) -> Example:
        return self.fitted.pool.examples[int(self.rows[place])]

    def all(self) -> "Neighbors":
        """All members of the pool that the query may get, as neighbors."""
        (neighbors,) = self.fitted.nearest([self.query], len(self.fitted.index), self.policy)
        return neighbors

    def given(self, places: Sequence[int], mark: str = "") -> list[RetrievedExample]:
        return [RetrievedExample(self.example(i).id, round(float(self.scores[i]), 6), mark) for i in places]


@dataclass(frozen=True)
class FittedSimilarity:
    """An index over one pool."""

    retriever: SimilarityRetriever
    pool: Pool
    source: EmbeddingSource
    index: VectorIndex

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        if not queries or k == 0:
            return [() for _ in queries]
        return [self._given(near, k) for near in self.nearest(queries, self.retriever.reach(k), policy)]

    def nearest(self, queries: Sequence[Query], count: int, policy: LeakPolicy) -> list[Neighbors]:
        """The `count` nearest allowed members of each query; fewer only where fewer are allowed."""
        vectors = self.asked(queries)
        if vectors.shape[1] != self.index.vectors.shape[1]:
            raise ConfigError(
                f"{self.retriever.embedder!r} gives queries {vectors.shape[1]} entries and demonstrations "
                f"{self.index.vectors.shape[1]}: they are not in one space. Use an encoder of both (encoder)."
            )
        found = self.index.nearest(vectors, count, [self.filter_for(query, policy) for query in queries])
        return [
            Neighbors(
                self,
                query,
                np.array([row for row, _ in hits], np.int64),
                np.array([score for _, score in hits], np.float64),
                policy,
            )
            for query, hits in zip(queries, found, strict=True)
        ]

    def asked(self, queries: Sequence[Query]) -> Vectors:
        """[Q, D] unit rows in the index's space."""
        return self.retriever.asked(queries, self.source)

    def filter_for(self, query: Query, policy: LeakPolicy) -> Callable[[int], bool]:
        """A filter of rows: whether a member of the pool may be a demonstration of the query."""
        examples, is_allowed, is_eligible = self.pool.examples, policy.allowed_for(query), self.retriever.is_eligible
        return lambda row: is_eligible(examples[row], query) and is_allowed(examples[row])

    def _given(self, near: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(near) < k and self.retriever.exact:
            raise self.retriever.too_few(self.pool, near.query, k, near.policy)
        return tuple(self.retriever.pick(near, k))


def fit_similarity(retriever: SimilarityRetriever, pool: Pool, resources: Resources) -> FittedSimilarity:
    """The retriever over a pool; the index is built once while the pool is in use."""
    indexes = _INDEXES.setdefault(pool, {})
    key = (*source_key(retriever.embedder, resources.cache), retriever.key, retriever.search)
    if key not in indexes:
        source = open_source(retriever.embedder, resources.cache, pool)
        indexes[key] = source, build_index(retriever.documents(pool.examples, source), retriever.search)
    return FittedSimilarity(retriever, pool, *indexes[key])


@dataclass(frozen=True)
class ModalityRetriever(SimilarityRetriever):
    """Base of retrievers that compare by image, by question, or by the weighted mean of both cosines."""

    by: Literal["image", "question", "both"] = "image"  # what is compared
    weight: Fraction = 0.5  # of the image's cosine where by is 'both'

    @property
    def modalities(self) -> frozenset[str]:
        return READ[self.by]

    @property
    def key(self) -> Hashable:
        return ("compared", self.by, self.weight if self.by == "both" else None)

    @property
    def told(self) -> str:
        return f"by is '{self.by}', and "

    def documents(self, examples: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return embed_by_modality(examples, source, self.by, self.weight)


def embed_by_modality(
    items: Sequence[Query | Example], source: EmbeddingSource, by: str, weight: float = 0.5
) -> Vectors:
    """[N, D]: a dot product of two rows is the cosine of images or questions, or their weighted mean ('both')."""
    if by == "image":
        return source.embed_images(items)
    questions = source.embed_texts([item.question for item in items])
    if by == "question":
        return questions
    images = source.embed_images(items)
    return np.hstack([images * np.float32(weight**0.5), questions * np.float32((1 - weight) ** 0.5)])
