"""Nearest neighbors by inner product, with filters, in a deterministic order.

FAISS proposes candidates, and each score is computed again in float64, row by row. Neither the batch nor the number of
threads can therefore change a result. Equal scores are in the order of the pool. If filters exclude candidates, the
search asks for more, until k are left or the pool ends.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrievers.machinery.vector_math import Vectors

_GUARD = Lock()

Search = Literal["exact", "hnsw", "ivf"]
"""exact: compare all rows. hnsw, ivf: FAISS proposes candidates from a graph or from the nearest lists."""

RowFilter = Callable[[int], bool]
"""Whether a row of the index may be a result of a query."""

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
                is_allowed = allowed[start + i] if allowed else _allow_all
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


def build_index(vectors: Vectors, search: Search = "exact") -> VectorIndex:
    """Build an index over unit rows. Small indexes are always exact."""
    if search == "exact" or len(vectors) <= MIN_FAISS_SCORES:
        return VectorIndex(vectors)
    from retrievers.machinery.approximate_search import HNSW, IVF

    return HNSW(vectors) if search == "hnsw" else IVF(vectors)


def _proposed(queries: Vectors, vectors: Vectors, m: int) -> NDArray[np.int64]:
    """Rows [Q, m] from FAISS. By default, FAISS uses matrix products only from many queries on."""
    import faiss

    with _GUARD:
        default = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = MIN_BLAS_QUERIES * vectors.shape[1]
        try:
            _, rows = faiss.knn(queries, vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.cvar.distance_compute_blas_threshold = default
    return np.asarray(rows, dtype=np.int64)


def _allow_all(row: int) -> bool:
    return True
