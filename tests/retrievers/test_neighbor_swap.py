"""One demonstration replaced by its nearest neighbor."""

from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import ConfigError
from icl.images import Image
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Resources

Make = Callable[..., Any]
X, XY, Y, Z = (1, 0, 0), (1, 0.8, 0), (0, 1, 0), (0, 0, 1)


class FixedRetriever:
    """A retriever that returns the same members for all queries."""

    needs: frozenset[str] = frozenset()

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def fit(self, pool: Pool, resources: Resources) -> "FixedRetriever":
        return self

    def retrieve(self, queries: Any, k: int, policy: Any) -> list[tuple[RetrievedExample, ...]]:
        return [
            tuple(RetrievedExample(name, 1 - i / 10, "of its own") for i, name in enumerate(self.ids[:k]))
            for _ in queries
        ]


@pytest.fixture
def pool(example: Make, pointing: Make) -> Pool:
    places = {"x": X, "near-x": (1, 0.1, 0), "xy": XY, "y": Y, "near-y": (0.1, 1, 0), "z": Z}
    return Pool(tuple(example(name, pointing(place, i), name) for i, (name, place) in enumerate(places.items())))


def _retrieve(pool: Pool, query: Query, number_embedder: Any, place: int, *ids: str) -> tuple[RetrievedExample, ...]:
    retriever = build(
        "retriever", {"name": "neighbor_swap", "of": "random", "position": place, "embedder": number_embedder}
    )
    object.__setattr__(retriever, "of", FixedRetriever(*ids))
    (hits,) = retriever.fit(pool, Resources()).retrieve([query], len(ids))
    return tuple(hits)


def test_the_replacement_has_the_position_and_score_of_the_demonstration(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    query = example("q", pointing(Z, 50)).query
    hits = _retrieve(pool, query, number_embedder, 0, "x", "y")
    assert [one.id for one in hits] == ["near-x", "y"]
    assert [one.score for one in hits] == [1.0, 0.9]
    assert hits[0].mark.startswith("of its own; neighbor_swap: place 0, cosine 0.9")
    assert hits[1].mark == "of its own"
    assert [one.id for one in _retrieve(pool, query, number_embedder, 1, "x", "y")] == ["x", "near-y"]


def test_the_replacement_is_no_demonstration_and_no_copy_of_one_or_the_query(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    image = pool.by_id["near-x"].images[0]
    copy = Example("copy", (Image.from_pil(image.open().copy(), "again"),), "?", ("copy",))
    query = example("q", pool.by_id["xy"].images[0]).query
    wider = Pool((*pool.examples, copy))
    assert [one.id for one in _retrieve(wider, query, number_embedder, 0, "x", "near-x")] == ["near-y", "near-x"]


def test_a_mark_says_that_there_is_no_replacement(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    query = example("q", pointing(Z, 50)).query
    every = tuple(pool.by_id)
    hits = _retrieve(pool, query, number_embedder, 2, *every)
    assert [one.id for one in hits] == list(every)
    assert hits[2].mark == "of its own; neighbor_swap: nothing to swap for"
    assert [one.mark for one in _retrieve(pool, query, number_embedder, 4, "x", "y")] == ["of its own"] * 2


def test_a_neighbor_by_question_needs_a_reader_of_texts() -> None:
    with pytest.raises(ConfigError, match=r"by is 'question', and .* reads images only"):
        build("retriever", {"name": "neighbor_swap", "of": "random", "by": "question", "embedder": "pixels"})


def test_members_without_images_are_distinguished_by_their_ids(example: Make, number_embedder: Any) -> None:
    pool = Pool(
        tuple(
            example(name, None, question=text) for name, text in (("x", "1 0 0"), ("near-x", "1 0.1 0"), ("y", "0 1 0"))
        )
    )
    retriever = build(
        "retriever", {"name": "neighbor_swap", "of": "random", "by": "question", "embedder": number_embedder}
    )
    object.__setattr__(retriever, "of", FixedRetriever("x"))
    (hits,) = retriever.fit(pool, Resources()).retrieve([example("q", None, question="0 0 1").query], 1)
    assert [one.id for one in hits] == ["near-x"]
