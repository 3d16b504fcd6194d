"""Approximate nearest neighbors: FAISS proposes candidates from a part of the index, and their scores are exact.

    hnsw    a navigable small-world graph (Malkov and Yashunin, 2016): 32 links a row, beams of 200 and 48
    ivf     an inverted file (Jegou et al., 2011): about 4 sqrt(N) lists by k-means, the 32 nearest are read

A neighbor may be missed, never mis-scored: candidates are ranked as the exact index ranks them. Both are built on one
thread from fixed seeds, so that the same vectors give the same index on the same machine.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrievers.machinery.vector_index import VectorIndex
from retrievers.machinery.vector_math import Vectors

LINKS, BUILD, BEAM = 32, 200, 48
LISTS, PROBES, SAMPLE = 4, 32, 64
"""IVF: lists a root of N, lists read a query, training rows a list."""


class _Approximate(VectorIndex):
    """An index whose proposals come from FAISS; where it proposes too few, the rest of the pool stands in."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors)
        self.faiss = _single_threaded(self.build)

    def build(self) -> Any:
        raise NotImplementedError

    def widen(self, m: int) -> None:
        """Look further for m candidates than for a few."""

    def propose(self, queries: Vectors, m: int) -> NDArray[np.int64]:
        self.widen(m)
        _, rows = self.faiss.search(queries, m)
        for own in rows:
            lost = int((own < 0).sum())
            if lost:
                unseen = np.setdiff1d(np.arange(len(self)), own)[:lost]
                own[own < 0] = unseen
        return np.asarray(rows, dtype=np.int64)


class HNSW(_Approximate):
    """A small-world graph: the fastest search, the slowest build."""

    def build(self) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(self.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD
        index.add(self.vectors)
        return index

    def widen(self, m: int) -> None:
        self.faiss.hnsw.efSearch = max(BEAM, 2 * m)


class IVF(_Approximate):
    """Lists around centers: quick to build."""

    def build(self) -> Any:
        import faiss

        count = max(1, int(LISTS * len(self) ** 0.5))
        centers = faiss.IndexFlatIP(self.vectors.shape[1])
        index = faiss.IndexIVFFlat(centers, self.vectors.shape[1], count, faiss.METRIC_INNER_PRODUCT)
        index.own_fields = False
        index.cp.seed, index.cp.max_points_per_centroid = 1234, SAMPLE
        index.train(self.vectors)
        index.add(self.vectors)
        index.nprobe = PROBES
        self.centers = centers  # the index only points to it
        return index


def _single_threaded(build: Any) -> Any:
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return build()
    finally:
        faiss.omp_set_num_threads(threads)
