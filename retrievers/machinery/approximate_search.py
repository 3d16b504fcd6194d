"""Approximate nearest neighbors: FAISS proposes candidates from a part of the index, and their scores are exact.

    hnsw    a navigable small-world graph (Malkov and Yashunin, 2016): 32 links a row, beams of 200 and 48
    ivf     an inverted file (Jegou et al., 2011): about 4 sqrt(N) lists by k-means, the 32 nearest are searched

The search can miss a neighbor, but its scores are exact: candidates are ranked as in the exact index. Both indexes are
built on one thread from fixed seeds, so the same vectors give the same index on the same machine.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrievers import VectorIndex, Vectors

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
        import faiss

        index = faiss.IndexHNSWFlat(self.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD
        index.add(self.vectors)
        return index

    def widen(self, m: int) -> None:
        self.faiss.hnsw.efSearch = max(BEAM, 2 * m)


class IVF(_Approximate):
    """An inverted file, lists around k-means centers: fast build."""

    def build(self) -> Any:
        import faiss

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
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return build()
    finally:
        faiss.omp_set_num_threads(threads)
