"""The exact index against a sort."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrievers.base import Vectors, normalize_rows
from retrievers.machinery.similarity import HNSW, IVF, MIN_FAISS_SCORES, VectorIndex, build_index


def _vectors(count: int, dim: int, seed: int) -> Vectors:
    return normalize_rows(np.random.default_rng(seed).normal(size=(count, dim)))


def _sorted(vectors: Vectors, query: Vectors) -> list[int]:
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(1)
    return list(np.argsort(-scores, kind="stable"))


def test_large_index_agrees_with_a_plain_sort() -> None:
    vectors, queries = _vectors(9000, 32, 0), _vectors(50, 32, 1)
    for hits, query in zip(VectorIndex(vectors).nearest(queries, 10), queries, strict=True):
        assert [row for row, _ in hits] == _sorted(vectors, query)[:10]


def test_ties_across_the_cut_are_in_pool_order() -> None:
    """Thousands of equal vectors: FAISS can return any of them, but the index returns the first ones."""
    few = _vectors(4, 16, 0)
    vectors = few[np.random.default_rng(1).integers(4, size=8000)]
    queries = _vectors(30, 16, 2)
    for hits, query in zip(VectorIndex(vectors).nearest(queries, 6), queries, strict=True):
        assert [row for row, _ in hits] == _sorted(vectors, query)[:6]


def test_a_query_gets_the_same_in_any_batch() -> None:
    vectors, queries = _vectors(6000, 48, 0), _vectors(64, 48, 1)
    index = VectorIndex(vectors)
    together = index.nearest(queries, 5)
    assert [index.nearest(queries[i : i + 1], 5)[0] for i in range(64)] == together


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 60),
    k=st.integers(0, 70),
    seed=st.integers(0, 99),
    banned=st.sets(st.integers(0, 59)),
    same=st.booleans(),
)
def test_filters_take_nothing_else_away(count: int, k: int, seed: int, banned: set[int], same: bool) -> None:
    vectors, query = _vectors(count, 5, seed), _vectors(1, 5, seed + 1)
    if same:
        vectors = vectors[np.zeros(count, int)]
    (hits,) = VectorIndex(vectors).nearest(query, k, [lambda row: row not in banned])
    assert [row for row, _ in hits] == [row for row in _sorted(vectors, query[0]) if row not in banned][:k]


def test_a_filter_that_bans_the_nearest_thousand_still_gives_k() -> None:
    vectors, query = _vectors(9000, 16, 0), _vectors(1, 16, 1)
    expected = _sorted(vectors, query[0])
    banned = set(expected[:1000])
    (hits,) = VectorIndex(vectors).nearest(query, 3, [lambda row: row not in banned])
    assert [row for row, _ in hits] == expected[1000:1003]


@pytest.mark.parametrize("k", [0, 3])
def test_no_queries_give_no_results(k: int) -> None:
    assert VectorIndex(_vectors(10, 4, 0)).nearest(np.zeros((0, 4), np.float32), k) == []


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
    monkeypatch.setattr("retrievers.machinery.similarity.MIN_FAISS_SCORES", 0)
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
