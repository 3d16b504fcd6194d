"""Nearest neighbors by inner product, with filters, in a fixed order; exact, or proposed by an approximate index.

FAISS proposes candidates and each one's score is computed again, row by row in float64, so that neither the batch nor
the number of threads can change a result; equal scores are in the order of the pool. A query asks for as many more as
its filters take away, until k are left or the pool is at its end.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrievers.machinery.vector_math import Vectors

_GUARD = Lock()

Search = Literal["exact", "hnsw", "ivf"]
"""exact: every row is compared. hnsw, ivf: FAISS proposes candidates from a graph or from the nearest lists."""

Allowed = Callable[[int], bool]
"""Whether a row of the index may be given to one query."""

SMALL = 4096
"""An index with fewer entries (rows x queries) is scored whole: FAISS would cost more than it saves."""

SLACK = 8
"""Candidates beyond k that a first search asks for: room for the query's own image and for ties."""

NOISE = 1e-5
"""How far a float32 inner product of unit vectors may be from its float64 value."""

FEW = 4
"""From this many queries on, one matrix product is faster than as many scans."""

CHUNK = 1024
"""Queries whose candidates are scored at once: bounds the memory."""


class VectorIndex:
    """vectors: [N, D] float32, unit rows. They are searched where they lie, not copied."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def propose(self, queries: Vectors, m: int) -> NDArray[np.int64]:
        """[Q, M] rows that may be among the best m; all that are, in an exact index. Distinct within a query."""
        return _proposed(queries, self.vectors, m)

    def nearest(
        self, queries: Vectors, k: int, allowed: Sequence[Allowed] | None = None
    ) -> list[list[tuple[int, float]]]:
        """Per query the k best allowed rows with their scores, best first; fewer only where fewer are allowed.

        queries: [Q, D] unit rows. allowed: one filter a query.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        found: list[list[tuple[int, float]]] = []
        for start in range(0, len(queries) if k > 0 else 0, CHUNK):
            chunk = queries[start : start + CHUNK]
            rows, scores = self._ranked(chunk, k + SLACK)
            for i in range(len(chunk)):
                may = allowed[start + i] if allowed else _anyone
                found.append(self._complete(chunk[i : i + 1], rows[i], scores[i], k, may))
        return found or [[] for _ in queries]

    def _complete(
        self, query: Vectors, rows: NDArray[np.int64], scores: NDArray[np.float64], k: int, may: Allowed
    ) -> list[tuple[int, float]]:
        while True:
            kept: list[tuple[int, float]] = []
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                if may(row):
                    kept.append((row, score))
                    if len(kept) == k:
                        break
            whole = len(rows) == len(self)
            if whole or (len(kept) == k and kept[-1][1] > scores[-1] + NOISE):
                return kept
            (rows,), (scores,) = self._ranked(query, 4 * len(rows))

    def _ranked(self, queries: Vectors, m: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """[Q, M] rows and scores of the best m candidates or more, best first, ties in the order of the pool."""
        m = len(self) if 4 * m > len(self) else m
        if m == len(self) or len(self) * len(queries) <= SMALL:
            rows = np.broadcast_to(np.arange(len(self)), (len(queries), len(self)))
        else:
            rows = np.sort(self.propose(queries, m), axis=1)
        scores = self._scores(queries, rows)
        best = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)

    def _scores(self, queries: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each row's sum is its own, whatever stands beside it: no BLAS, whose order of adding depends on the shape."""
        exact = queries.astype(np.float64)
        scores = np.empty(rows.shape)
        for i, own in enumerate(rows):
            scores[i] = (self.vectors[own] * exact[i]).sum(axis=1)
        return scores


def build_index(vectors: Vectors, search: Search = "exact") -> VectorIndex:
    """An index over unit rows. Few rows are always searched exactly: there is nothing to save."""
    if search == "exact" or len(vectors) <= SMALL:
        return VectorIndex(vectors)
    from retrievers.machinery.approximate_search import HNSW, IVF

    return HNSW(vectors) if search == "hnsw" else IVF(vectors)


def _proposed(queries: Vectors, vectors: Vectors, m: int) -> NDArray[np.int64]:
    """[Q, m] rows by FAISS, in matrix products already from a few queries on: its own switch waits for a thousand."""
    import faiss

    with _GUARD:
        own = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = FEW * vectors.shape[1]
        try:
            _, rows = faiss.knn(queries, vectors, m, metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.cvar.distance_compute_blas_threshold = own
    return np.asarray(rows, dtype=np.int64)


def _anyone(row: int) -> bool:
    return True
