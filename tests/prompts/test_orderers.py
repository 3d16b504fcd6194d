"""The position of each demonstration after ordering."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from icl.errors import PlanError
from icl.registry import build
from icl.streams import StreamKey
from icl.types import Context, Demo, Example


def _context(seed: int = 0, query: str = "q", shots: int = 5) -> Context:
    demos = tuple(Demo(Example(f"e{i}", (), "?", ("a",)), 0.5, i) for i in range(shots))  # equal scores: ranks decide
    return Context(Example(query, (), "?", ()).query, demos, StreamKey(seed, query))


def _ids(name: Any, context: Context) -> str:
    return "".join(demo.example.id[1] for demo in build("orderer", name).order(context).demos)


def test_as_retrieved_is_best_first_and_reversed_its_exact_reverse() -> None:
    assert _ids("as_retrieved", _context()) == "01234"
    assert _ids("reversed", _context()) == "43210"


def test_ordering_twice_is_ordering_once() -> None:
    for name in ("as_retrieved", "reversed", "random"):
        once = build("orderer", name).order(_context())
        assert build("orderer", name).order(once) == once


def test_random_orders_depend_on_the_query_and_are_uniform() -> None:
    assert _ids("random", _context(0, "q")) == _ids("random", _context(0, "q"))
    assert len({_ids("random", _context(s, f"q{i}")) for s in range(3) for i in range(10)}) > 20
    lasts = Counter(_ids("random", _context(0, f"q{i}", 3))[-1] for i in range(600))
    assert all(abs(lasts[last] - 200) < 60 for last in "012")


def _labeled(words: str, gold: str = "", query: str = "q", seed: int = 0) -> Context:
    """Demonstrations by rank, each answering one letter; the query with its gold where one is given."""
    demos = tuple(Demo(Example(f"e{i}", (), "?", (word,)), 0.5, i) for i, word in enumerate(words))
    example: Any = Example(query, (), "?", (gold,)) if gold else Example(query, (), "?", ()).query
    return Context(example, demos, StreamKey(seed, query))


def test_alternating_takes_turns_by_rank_and_skips_the_empty() -> None:
    assert _ids("alternating", _labeled("aaabcb")) == "034152"
    assert _ids("alternating", _labeled("")) == ""


def test_alternating_may_draw_the_order_of_labels_for_each_query() -> None:
    node = {"name": "alternating", "start": "random"}
    first = {_ids(node, _labeled("ab", query=f"q{i}"))[0] for i in range(20)}
    assert first == {"0", "1"}
    assert _ids(node, _labeled("abab")) in ("0123", "1032")


@pytest.mark.parametrize(("place", "ids"), [("head", "31420"), ("middle", "43120"), ("tail", "42031")])
def test_demonstrations_of_the_query_s_label_form_a_block(place: str, ids: str) -> None:
    assert _ids({"name": "label_position", "position": place}, _labeled("bGbgb", "g")) == ids


def test_a_middle_block_begins_at_the_floor() -> None:
    assert _ids({"name": "label_position", "position": "middle"}, _labeled("gbbb", "g")) == "3021"
    assert _ids({"name": "label_position", "position": "middle"}, _labeled("gbbbbb", "g")) == "540321"


def test_the_oracle_needs_the_gold_and_records_it() -> None:
    done = build("orderer", "label_position").order(_labeled("ab", "b"))
    assert done.provenance == ("label_position: 1 at the head, saw the gold",)
    with pytest.raises(PlanError, match="'label_position' is an oracle: it needs the gold of query 'q'"):
        build("orderer", "label_position").order(_labeled("ab"))


def test_permutations_are_all_the_orders_and_the_retriever_s_is_the_first() -> None:
    orders = [_ids({"name": "permutation", "index": i}, _context(shots=3)) for i in range(6)]
    assert orders[0] == "012"
    assert len(set(orders)) == 6
    assert _ids({"name": "permutation", "index": 3}, _context(query="other", shots=3)) == orders[3]
    with pytest.raises(PlanError, match=r"3 demonstrations have 6 orders, and none is number 6\. Use index 0 to 5,"):
        _ids({"name": "permutation", "index": 6}, _context(shots=3))


def test_one_demonstration_and_none_have_one_order_whatever_the_number() -> None:
    assert [_ids({"name": "permutation", "index": 3}, _context(shots=n)) for n in (0, 1)] == ["", "0"]


def test_queries_may_have_permutations_of_their_own() -> None:
    node = {"name": "permutation", "index": 1, "own": True}
    assert len({_ids(node, _context(query=f"q{i}")) for i in range(12)}) > 6


@pytest.mark.parametrize(
    "node",
    ["as_retrieved", "reversed", "random", "alternating", {"name": "permutation", "index": 3}, "label_position"],
    ids=str,
)
def test_ranks_decide_and_not_the_input_order(node: Any) -> None:
    ranked = _labeled("abgbag", "g")
    mixed = replace(ranked, demos=tuple(ranked.demos[i] for i in (3, 0, 5, 1, 4, 2)))
    assert _ids(node, mixed) == _ids(node, ranked)


def test_two_demonstrations_have_two_numbered_orders_and_one_has_one() -> None:
    assert {_ids({"name": "permutation", "index": i}, _context(shots=2)) for i in (0, 1)} == {"01", "10"}
    with pytest.raises(PlanError, match="2 demonstrations have 2 orders, and none is number 2"):
        _ids({"name": "permutation", "index": 2}, _context(shots=2))
    assert _ids({"name": "permutation", "index": 5}, _context(shots=1)) == "0"
    assert _ids({"name": "permutation", "index": 5}, _context(shots=0)) == ""


def test_auto_nests_where_no_demonstration_is_the_best_and_puts_the_best_last_elsewhere() -> None:
    context = _context(shots=3)
    without = replace(context, demos=tuple(replace(demo, score=0.0) for demo in context.demos))
    one = replace(context, demos=(context.demos[0], *without.demos[1:]))
    assert [_ids("auto", some) for some in (context, one, without)] == ["210", "210", "012"]
