"""Approximate indexes: they return nearly all exact neighbors, and never a wrong score."""

from typing import Any

import numpy as np
import pytest

from retrievers.machinery.approximate_search import HNSW, IVF
from retrievers.machinery.vector_index import MIN_FAISS_SCORES, VectorIndex, build_index
from retrievers.machinery.vector_math import Vectors, normalize_rows


def _clustered(count: int, seed: int) -> Vectors:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(40, 16))
    return normalize_rows(centers[rng.integers(40, size=count)] + 0.4 * rng.normal(size=(count, 16)))


@pytest.mark.parametrize("kind", [HNSW, IVF])
def test_most_neighbors_are_found_and_scored_exactly(kind: Any) -> None:
    vectors, queries = _clustered(6000, 1), _clustered(40, 2)
    exact, near = VectorIndex(vectors).nearest(queries, 10), kind(vectors).nearest(queries, 10)
    shared = [len({r for r, _ in one} & {r for r, _ in two}) / 10 for one, two in zip(exact, near, strict=True)]
    assert np.mean(shared) > 0.95
    for query, hits in zip(queries, near, strict=True):
        for row, score in hits:
            assert score == pytest.approx(float(vectors[row].astype(float) @ query), abs=1e-9)


@pytest.mark.parametrize("kind", [HNSW, IVF])
def test_two_builds_are_one_index_and_filters_still_give_k(kind: Any) -> None:
    vectors, queries = _clustered(5000, 1), _clustered(5, 2)
    one, two = kind(vectors), kind(vectors)
    assert one.nearest(queries, 8) == two.nearest(queries, 8)
    (hits,) = one.nearest(queries[:1], 8, [lambda row: row % 10 == 0])
    assert len(hits) == 8
    assert all(row % 10 == 0 for row, _ in hits)


def test_few_rows_are_searched_exactly() -> None:
    assert type(build_index(_clustered(MIN_FAISS_SCORES, 1), "hnsw")) is VectorIndex
    assert type(build_index(_clustered(MIN_FAISS_SCORES + 1, 1), "ivf")) is IVF


class Scrambled(VectorIndex):
    """An index that proposes the right candidates in the reverse of their order."""

    def propose(self, queries: Vectors, m: int) -> Any:
        return super().propose(queries, m)[:, ::-1]


def test_the_order_of_proposed_candidates_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where scores are equal: each vector occurs four times."""
    vectors, queries = np.tile(_clustered(400, 1), (4, 1)), _clustered(6, 2)
    whole = VectorIndex(vectors).nearest(queries, 5)
    monkeypatch.setattr("retrievers.machinery.vector_index.MIN_FAISS_SCORES", 0)
    assert VectorIndex(vectors).nearest(queries, 5) == Scrambled(vectors).nearest(queries, 5) == whole


class Short:
    """A FAISS index that finds two rows and leaves the rest empty."""

    def search(self, queries: Vectors, m: int) -> tuple[Any, Any]:
        rows = np.full((len(queries), m), -1)
        rows[:, :2] = [0, 3]
        return np.zeros((len(queries), m)), rows


def test_missing_candidates_are_other_rows_of_the_pool() -> None:
    index: Any = HNSW.__new__(HNSW)
    VectorIndex.__init__(index, _clustered(9, 1))
    widths: list[int] = []
    index.faiss, index.widen = Short(), widths.append
    assert index.propose(_clustered(2, 2), 5).tolist() == [[0, 3, 1, 2, 4]] * 2
    assert widths == [5]


def test_beams_and_lists_are_those_of_the_docs() -> None:
    graph, lists = HNSW(_clustered(500, 1)), IVF(_clustered(5000, 1))
    assert (graph.faiss.hnsw.efConstruction, graph.faiss.hnsw.nb_neighbors(1)) == (200, 32)
    graph.widen(10)
    assert graph.faiss.hnsw.efSearch == 48
    graph.widen(100)
    assert graph.faiss.hnsw.efSearch == 200
    assert (lists.faiss.nlist, lists.faiss.nprobe) == (int(4 * 5000**0.5), 32)
    assert (lists.faiss.cp.seed, lists.faiss.cp.max_points_per_centroid) == (1234, 64)


def test_building_an_index_keeps_the_number_of_threads() -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        HNSW(_clustered(50, 1))
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
