"""Derangements against all permutations, and changes of examples."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl.errors import PlanError
from icl.streams import StreamKey
from icl.types import Context, Demo, Example
from prompts.example_changes import (
    change_examples,
    derange,
    gold_of,
    random_answer,
    random_places,
    replace_demos,
    sort_by_rank,
)


def _context(count: int = 3) -> Context:
    demos = [Demo(Example(f"e{i}", (), f"{i}?", (f"a{i}",)), 0.5, i) for i in range(count)]
    return Context(Example("q", (), "which?", ()).query, tuple(reversed(demos)), StreamKey(0, "q"))


@settings(max_examples=60)
@given(values=st.lists(st.sampled_from("abc"), max_size=6), data=st.data())
def test_a_derangement_moves_as_many_values_as_any_permutation(values: list[str], data: st.DataObject) -> None:
    moved, share = derange(values, data.draw(st.permutations(range(len(values)))), str)
    assert sorted(moved) == sorted(values)
    changed = sum(a != b for a, b in zip(moved, values, strict=True))
    assert share == (changed / len(values) if values else 0.0)
    assert changed == max(sum(a != b for a, b in zip(p, values, strict=True)) for p in permutations(values))


def test_a_derangement_of_distinct_values_is_one_cycle_in_the_order_of_the_shuffle() -> None:
    moved, share = derange(["a", "b", "c", "d"], [2, 0, 3, 1], str)
    assert (moved, share) == (["d", "c", "a", "b"], 1.0)


def test_changes_reach_their_owners_only_and_are_marked_once() -> None:
    context = _context()

    def upper(item: Example) -> Example:
        return Example(item.id, item.images, item.question.upper() + "!", getattr(item, "answers", ()))

    demos = change_examples(context, "demos", upper, "m")
    assert [demo.example.question for demo in demos.demos] == ["2?!", "1?!", "0?!"]
    assert (demos.query, demos.provenance) == (context.query, ("m",))
    query = change_examples(context, "query", upper, "m")
    assert (query.demos, query.query.question, query.provenance) == (context.demos, "WHICH?!", ("m",))
    both = change_examples(context, "all", upper, "m")
    assert (both.demos, both.query.question) == (demos.demos, "WHICH?!")
    assert change_examples(context, "all", lambda item: item, "m") is context


def test_demonstrations_are_replaced_by_rank() -> None:
    context = _context()
    by_rank = sort_by_rank(context)
    assert [demo.rank for demo in by_rank] == [0, 1, 2]
    assert replace_demos(context, by_rank, "m") is context
    new = [Demo(Example(f"n{demo.rank}", (), "?", ("x",)), 0.1, demo.rank) for demo in by_rank]
    done = replace_demos(context, new, "m")
    assert [demo.example.id for demo in done.demos] == ["n2", "n1", "n0"]
    assert done.provenance == ("m",)


@pytest.mark.parametrize("count", [1, 4])
def test_random_choices_are_permutations_and_members(count: int) -> None:
    context = _context(count)
    assert sorted(random_places(context, "f")) == list(range(count))
    words = [f"w{i}" for i in range(count)]
    assert random_answer(context, "f", words) == random_answer(context, "f", words[::-1])
    assert {random_answer(context, f"f{i}", words) for i in range(60)} == set(words)


EXAMPLE = Example("q", (), "which?", ("red",))


def test_the_gold_is_the_example_in_the_place_of_the_query() -> None:
    assert gold_of(Context(EXAMPLE, (), StreamKey(0, "q")), "orderer 'x'") is EXAMPLE  # type: ignore[arg-type]  # oracles


def test_a_context_without_gold_is_an_error_that_names_the_component() -> None:
    with pytest.raises(PlanError, match=r"^orderer 'x' is an oracle: it needs the gold of query 'q'\."):
        gold_of(Context(EXAMPLE.query, (), StreamKey(0, "q")), "orderer 'x'")
