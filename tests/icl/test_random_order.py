"""Orders of examples by their ids: uniform, and the same for every place in the pool."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from icl.streams import StreamKey
from icl.tasks.base import FIRST, Pool, id_hashes, mix, random_order
from icl.types import Example

IDS = st.lists(st.text(max_size=4), unique=True, max_size=30)


def _order(ids: list[str], query: str = "q", seed: int = 0) -> list[str]:
    pool = Pool(tuple(Example(name, (), "?", ("a",)) for name in ids))
    return [example.id for example in pool.in_random_order(StreamKey(seed, query), "demos")]


def _named_order(ids: list[str], query: str = "q") -> list[str]:
    return [ids[i] for i in StreamKey(0, query).order("demos", ids)]


@pytest.mark.parametrize("order", [_order, _named_order])
@settings(max_examples=50)
@given(ids=IDS, data=st.data())
def test_a_new_id_changes_no_relative_order_and_places_do_not_matter(order, ids, data) -> None:
    before = order(ids)
    assert sorted(before) == sorted(ids)
    assert order(data.draw(st.permutations(ids))) == before
    more = data.draw(st.permutations([*ids, "a new id"]))
    assert [name for name in order(more) if name != "a new id"] == before


@pytest.mark.parametrize("order", [_order, _named_order])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_first_two_are_uniform_over_ordered_pairs(order, count: int) -> None:
    ids = [f"train-{i:06d}" for i in range(count)]
    cells = count * (count - 1)
    pairs = Counter(tuple(order(ids, f"query-{i}")[:2]) for i in range(40 * cells))
    assert len(pairs) == cells
    assert chisquare(list(pairs.values())).pvalue > 0.001


def test_each_member_of_a_large_pool_is_first_equally_often() -> None:
    hashes = id_hashes([f"{i}" for i in range(1000)])
    firsts = [next(random_order(StreamKey(seed, f"q{i}"), "f", hashes)) for seed in range(4) for i in range(5000)]
    assert chisquare(np.bincount(firsts, minlength=1000)).pvalue > 0.001


def test_orders_of_two_queries_and_of_two_factors_are_unrelated() -> None:
    hashes = id_hashes([f"{i}" for i in range(2000)])
    keys = [(StreamKey(0, "a"), "f"), (StreamKey(0, "b"), "f"), (StreamKey(1, "a"), "f"), (StreamKey(0, "a"), "g")]
    places = [np.argsort(list(random_order(key, factor, hashes))) for key, factor in keys]
    assert all(abs(np.corrcoef(one, other)[0, 1]) < 0.09 for one, other in pairwise(places))  # 4 standard deviations


@pytest.mark.parametrize("size", [0, 1, FIRST, FIRST + 1, 20 * FIRST])
def test_the_order_is_that_of_the_mixed_numbers_at_any_size(size: int) -> None:
    hashes, key = id_hashes([f"{i}" for i in range(size)]), StreamKey(3, "q")
    numbers = mix(hashes ^ np.uint64(key.number("f")))
    assert list(random_order(key, "f", hashes)) == np.argsort(numbers).tolist()


def test_the_mix_is_that_of_splitmix64() -> None:
    """The first outputs of the reference implementation (Vigna, splitmix64.c) with seed 1234567."""
    state = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_orders_are_pinned() -> None:
    """If these change, icl.streams.DRAWS must change."""
    assert ("".join(_order(list("abcdefgh"))), "".join(_named_order(list("abcdefgh")))) == ("hfbdcgea", "eghdbcaf")
