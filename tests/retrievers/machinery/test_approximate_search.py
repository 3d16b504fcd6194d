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
