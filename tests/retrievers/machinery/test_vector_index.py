"""The exact index against a sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrievers.machinery.vector_index import VectorIndex
from retrievers.machinery.vector_math import Vectors, normalize_rows


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
