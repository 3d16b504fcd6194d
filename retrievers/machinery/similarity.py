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

This module does the rest: it caches vectors and indexes, applies the leak policy, and raises the errors. `VectorIndex`
has the similarity measure, filters during the search, and breaks ties by the order of the pool. Vectors come from
`retrievers.machinery.embeddings`.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from icl import (
    ConfigError,
    Example,
    Fraction,
    NestedComponent,
    PlanError,
    Pool,
    PositiveInt,
    Query,
    RetrievedExample,
    faiss,
)
from retrievers.base import EXCLUDE_LEAKS, Embedder, FittedRetriever, LeakPolicy, Resources, RetrievedDemos, Vectors
from retrievers.machinery.embeddings import (
    MODALITIES_OF,
    EmbeddingSource,
    TextField,
    check_modalities,
    for_text,
    open_source,
    source_key,
)
from retrievers.machinery.encoder import Encoder

Scores = NDArray[np.float64]

_INDEXES: "WeakKeyDictionary[Pool, dict[Hashable, tuple[EmbeddingSource, VectorIndex]]]" = WeakKeyDictionary()
"""The indexes of all pools in use. Runs with another seed or number of shots share an index."""


# Nearest neighbors by inner product, with filters, in a deterministic order.
#
# FAISS proposes candidates, and each score is computed again in float64, row by row. Neither the batch nor the number
# of threads can therefore change a result. Equal scores are in the order of the pool. If filters exclude candidates,
# the search asks for more, until k are left or the pool ends.


Search = Literal["exact", "hnsw", "ivf"]
"""exact: compare all rows. hnsw, ivf: FAISS proposes candidates from a graph or from the nearest lists."""


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
    search: Search = "exact"  # or approximate: hnsw, ivf (see retrievers.machinery.similarity)

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


RowFilter = Callable[[int], bool]
"""Whether a row of the index may be a result of a query."""


class VectorIndex:
    """An exact index over unit vectors, [N, D] float32. It does not copy them."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def propose(self, queries: Vectors, m: int) -> NDArray[np.int64]:
        """Propose distinct rows that can be among the best m of each query, [Q, M]. An exact index misses none."""
        return _proposed(queries, self.vectors, m)

    def nearest(
        self, queries: Vectors, k: int, allowed: Sequence[RowFilter] | None = None
    ) -> list[list[tuple[int, float]]]:
        """The k nearest rows of each query that its filter allows.

        Args:
            queries: [Q, D], unit rows.
            allowed: One filter per query.

        Returns:
            (row, score) pairs of each query, best first; fewer than k only if fewer are allowed.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        hits: list[list[tuple[int, float]]] = []
        for start in range(0, len(queries) if k > 0 else 0, CHUNK):
            chunk = queries[start : start + CHUNK]
            rows, scores = self._ranked(chunk, k + SLACK)
            for i in range(len(chunk)):
                is_allowed = allowed[start + i] if allowed else lambda _row: True
                hits.append(self._filtered(chunk[i : i + 1], rows[i], scores[i], k, is_allowed))
        return hits or [[] for _ in queries]

    def _filtered(
        self, query: Vectors, rows: NDArray[np.int64], scores: NDArray[np.float64], k: int, is_allowed: RowFilter
    ) -> list[tuple[int, float]]:
        while True:
            hits: list[tuple[int, float]] = []
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                if is_allowed(row):
                    hits.append((row, score))
                    if len(hits) == k:
                        break
            searched_all = len(rows) == len(self)
            if searched_all or (len(hits) == k and hits[-1][1] > scores[-1] + FLOAT32_ERROR):
                return hits
            (rows,), (scores,) = self._ranked(query, 4 * len(rows))

    def _ranked(self, queries: Vectors, m: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and scores [Q, M] of at least the best m candidates, best first, ties in the order of the pool."""
        m = len(self) if 4 * m > len(self) else m
        if m == len(self) or len(self) * len(queries) <= MIN_FAISS_SCORES:
            rows = np.broadcast_to(np.arange(len(self)), (len(queries), len(self)))
        else:
            rows = np.sort(self.propose(queries, m), axis=1)
        scores = self._scores(queries, rows)
        best = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)

    def _scores(self, queries: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores row by row. BLAS is not used, because its order of summation depends on the shape."""
        exact = queries.astype(np.float64)
        scores = np.empty(rows.shape)
        for i, of_query in enumerate(rows):
            scores[i] = (self.vectors[of_query] * exact[i]).sum(axis=1)
        return scores


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


_GUARD = Lock()

MIN_FAISS_SCORES = 4096
"""Up to this number of scores (rows x queries), all rows are scored, because FAISS would be slower."""

SLACK = 8
"""Candidates beyond k in the first search, for filtered rows and ties."""

FLOAT32_ERROR = 1e-5
"""The largest error of a float32 inner product of unit vectors."""

MIN_BLAS_QUERIES = 4
"""From this number of queries on, one matrix product is faster than a scan per query."""

CHUNK = 1024
"""Queries scored at once. It bounds the memory."""


def build_index(vectors: Vectors, search: Search = "exact") -> VectorIndex:
    """Build an index over unit rows. Small indexes are always exact."""
    if search == "exact" or len(vectors) <= MIN_FAISS_SCORES:
        return VectorIndex(vectors)
    return HNSW(vectors) if search == "hnsw" else IVF(vectors)


def _proposed(queries: Vectors, vectors: Vectors, m: int) -> NDArray[np.int64]:
    """Rows [Q, m] from FAISS. By default, FAISS uses matrix products only from many queries on."""
    with _GUARD:
        default = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = MIN_BLAS_QUERIES * vectors.shape[1]
        try:
            _, rows = faiss.knn(queries, vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.cvar.distance_compute_blas_threshold = default
    return np.asarray(rows, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class CandidateSetRetriever(ModalityRetriever):
    """Base of retrievers that select a set from the nearest `candidates`.

    If there are fewer candidates than shots, the next nearest members follow. The candidates do not depend on the
    number of shots, so a greedy selection is nested.
    """

    candidates: PositiveInt = 100  # how many of the nearest members the set is selected from

    def num_candidates(self, k: int) -> int:
        return max(k, self.candidates)

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        first = replace(neighbors, rows=neighbors.rows[: self.candidates], scores=neighbors.scores[: self.candidates])
        demos = list(self.choose_set(first, min(k, len(first))))
        return (
            [*demos, *neighbors.retrieved(range(len(first), len(first) + k - len(demos)))] if self.returns_k else demos
        )

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        """Select k of the candidates; fewer only if `returns_k` is False."""
        raise NotImplementedError


# Approximate nearest neighbors: FAISS proposes candidates from a part of the index, and their scores are exact.
#
#     hnsw    a navigable small-world graph (Malkov and Yashunin, 2016): 32 links a row, beams of 200 and 48
#     ivf     an inverted file (Jegou et al., 2011): about 4 sqrt(N) lists by k-means, the 32 nearest are searched
#
# The search can miss a neighbor, but its scores are exact: candidates are ranked as in the exact index. Both indexes
# are built on one thread from fixed seeds, so the same vectors give the same index on the same machine.


LINKS, BUILD, BEAM = 32, 200, 48
"""HNSW: links per row, beam of the build, beam of the search."""

LISTS, PROBES, SAMPLE = 4, 32, 64
"""IVF: lists per sqrt(N), lists searched per query, training rows per list."""


class _Approximate(VectorIndex):
    """Base of indexes with candidates from FAISS. If it proposes too few, other rows of the pool fill up."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors)
        self.faiss = _single_threaded(self.build)

    def build(self) -> Any:
        raise NotImplementedError

    def widen(self, m: int) -> None:
        """Widen the search for m candidates."""

    def propose(self, queries: Vectors, m: int) -> NDArray[np.int64]:
        self.widen(m)
        _, rows = self.faiss.search(queries, m)
        for of_query in rows:
            missing = int((of_query < 0).sum())
            if missing:
                of_query[of_query < 0] = np.setdiff1d(np.arange(len(self)), of_query)[:missing]
        return np.asarray(rows, dtype=np.int64)


class HNSW(_Approximate):
    """A small-world graph: fast search, slow build."""

    def build(self) -> Any:
        index = faiss.IndexHNSWFlat(self.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD
        index.add(self.vectors)
        return index

    def widen(self, m: int) -> None:
        self.faiss.hnsw.efSearch = max(BEAM, 2 * m)


class IVF(_Approximate):
    """An inverted file, lists around k-means centers: fast build."""

    def build(self) -> Any:
        count = int(LISTS * len(self) ** 0.5)
        centers = faiss.IndexFlatIP(self.vectors.shape[1])
        index = faiss.IndexIVFFlat(centers, self.vectors.shape[1], count, faiss.METRIC_INNER_PRODUCT)
        index.own_fields = False
        index.cp.seed, index.cp.max_points_per_centroid = 1234, SAMPLE
        index.train(self.vectors)
        index.add(self.vectors)
        index.nprobe = PROBES
        self.centers = centers  # keeps the object alive: the index has only a pointer to it
        return index


def _single_threaded(build: Any) -> Any:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return build()
    finally:
        faiss.omp_set_num_threads(threads)
