"""Retrievers that read labels."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers import by_label as hard_negative
from retrievers.base import Resources
from retrievers.by_label import quotas

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ({"a": 60, "b": 30, "c": 10}, 10, {"a": 6, "b": 3, "c": 1}),
        ({"a": 60, "b": 30, "c": 10}, 3, {"a": 2, "b": 1, "c": 0}),  # 1.8, .9, .3
        ({"a": 5, "b": 5}, 1, {"a": 1, "b": 0}),  # a tie of remainder and size: by name
        ({"a": 3, "b": 5}, 4, {"a": 1, "b": 3}),  # 1.5, 2.5: a tie of remainders goes to the larger
        ({"a": 1, "b": 1}, 2, {"a": 1, "b": 1}),
        ({"a": 1}, 0, {}),
    ],
)
def test_quotas_are_proportional_by_the_largest_remainder(sizes: Any, k: int, expected: Any) -> None:
    assert quotas(sizes, k) == expected


def test_stratified_keeps_the_proportions_and_balanced_does_not(color: Make, example: Make) -> None:
    names = ["red"] * 30 + ["blue"] * 10
    pool = Pool(tuple(example(f"e{i}", color(name, i), name, label=name) for i, name in enumerate(names)))
    query = example("q", color("lime", 90)).query
    for name, expected in (("stratified", {"red": 6, "blue": 2}), ("balanced", {"red": 4, "blue": 4})):
        (demos,) = build("retriever", name).fit(pool, Resources()).retrieve([query], 8)
        assert Counter(pool.by_id[one.id].label for one in demos) == expected


@pytest.fixture
def labeled(example: Make, turned: Make) -> Pool:
    """Around 0 degrees: three of 'a', then 'b' at two places, 'c' far away."""
    places = {"a1": 1, "a2": 2, "a3": -3, "b1": 10, "b2": -12, "c1": 60}
    return Pool(tuple(example(n, None, n[0], label=n[0], question=turned(at)) for n, at in places.items()))


def _retrieve(name: str, pool: Pool, query: Any, number_embedder: Any, k: int) -> Any:
    node = {"name": name, "by": "question", "embedder": number_embedder}
    return build("retriever", node).fit(pool, Resources()).retrieve([query.query], k)[0]


def test_hard_negatives_are_near_and_of_another_label(
    labeled: Pool, example: Make, turned: Make, number_embedder: Any
) -> None:
    demos = _retrieve("hard_negative", labeled, example("q", None, question=turned(0)), number_embedder, 6)
    assert [one.id for one in demos] == ["a1", "b1", "b2", "c1", "a2", "a3"]
    assert [one.mark for one in demos] == [""] * 4 + [hard_negative.MARK] * 2


def test_hard_negatives_are_found_behind_many_of_one_label(example: Make, turned: Make, number_embedder: Any) -> None:
    front = [example(f"a{i}", None, "a", question=turned(i / 10)) for i in range(100)]
    pool = Pool((*front, example("b", None, "b", question=turned(90))))
    assert [
        o.id for o in _retrieve("hard_negative", pool, example("q", None, question="1 0 0"), number_embedder, 2)
    ] == ["a0", "b"]


def test_a_pair_is_a_demonstration_and_its_own_nearest_of_another_label(
    labeled: Pool, example: Make, turned: Make, number_embedder: Any
) -> None:
    """b1 is nearest to a1 among the others; then a2, whose partner b1 is taken, gets b2; then a3 gets c1."""
    demos = _retrieve("contrastive_pair", labeled, example("q", None, question=turned(0)), number_embedder, 6)
    assert [one.id for one in demos] == ["a1", "b1", "a2", "b2", "a3", "c1"]
    odd = _retrieve("contrastive_pair", labeled, example("q", None, question=turned(0)), number_embedder, 3)
    assert [one.id for one in odd] == ["a1", "b1", "a2"]


def test_the_partner_is_near_to_the_demonstration_not_to_the_query(
    example: Make, turned: Make, number_embedder: Any
) -> None:
    places = {"a1": 20, "b1": -25, "b2": 50}
    pool = Pool(tuple(example(n, None, n[0], label=n[0], question=turned(at)) for n, at in places.items()))
    demos = _retrieve("contrastive_pair", pool, example("q", None, question=turned(0)), number_embedder, 2)
    assert [one.id for one in demos] == ["a1", "b2"]
    assert [
        one.id for one in _retrieve("hard_negative", pool, example("q", None, question=turned(0)), number_embedder, 2)
    ] == [
        "a1",
        "b1",
    ]


@pytest.mark.parametrize("name", ["hard_negative", "contrastive_pair"])
def test_one_label_is_an_error(name: str, example: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"e{i}", None, question="1 0") for i in range(3)))
    with pytest.raises(PlanError, match=rf"'{name}' needs a pool with two labels or more, and all 3 examples have 'a'"):
        _retrieve(name, pool, example("q", None, question="1 0"), number_embedder, 1)
