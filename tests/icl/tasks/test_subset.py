"""Tests of nested choices."""

from icl.streams import StreamKey
from icl.tasks.base import nested_choice

IDS = [f"item-{i}" for i in range(100)]


def test_a_smaller_choice_begins_a_larger_one():
    assert nested_choice(IDS, 10, 0, "f") == nested_choice(IDS, 60, 0, "f")[:10]


def test_the_order_of_reading_does_not_matter():
    forwards = [IDS[i] for i in nested_choice(IDS, 10, 0, "f")]
    backwards = [IDS[::-1][i] for i in nested_choice(IDS[::-1], 10, 0, "f")]
    assert forwards == backwards


def test_the_ids_with_the_smallest_numbers_are_chosen():
    numbers = [StreamKey(3, name).number("f") for name in IDS]
    assert nested_choice(IDS, 10, 3, "f") == sorted(range(100), key=numbers.__getitem__)[:10]
    assert nested_choice([IDS[7]] * 3, 2, 3, "f") == [0, 1]


def test_seed_and_factor_change_the_choice_and_no_limit_keeps_the_order():
    assert nested_choice(IDS, 10, 0, "f") != nested_choice(IDS, 10, 1, "f") != nested_choice(IDS, 10, 1, "g")
    assert nested_choice(IDS, None, 0, "f") == list(range(100))
    assert sorted(nested_choice(IDS, 1000, 0, "f")) == list(range(100))
