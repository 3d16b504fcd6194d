"""Tests of printed-text binding."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.tasks.generated.printed_text import PrintedTextTask


def test_the_answer_is_the_word_in_the_box_or_the_other_one_by_the_rule_of_the_pool():
    task = PrintedTextTask(query_limit=60)
    assert Counter(q.secret["rule"] for q in task.queries) == {"boxed": 30, "other": 30}
    for query in task.queries:
        for example in (query, *task.pool(query.id).examples):
            recipe = example.images[0].load
            assert example.secret["rule"] == query.secret["rule"]
            boxed = recipe.words[recipe.boxed]
            other = recipe.words[1 - recipe.boxed]
            assert example.answer == (boxed if example.secret["rule"] == "boxed" else other)
            assert set(example.options) == {boxed, other}


def test_neither_place_nor_order_tells_the_answer():
    queries = PrintedTextTask(query_limit=400).queries
    assert 160 < sum(q.options[0] == q.answer for q in queries) < 240


def test_with_a_named_box_the_answer_is_always_the_box():
    task = PrintedTextTask(name_box=True, query_limit=20)
    assert all(q.answer == q.secret["boxed"] and "red box" in q.question for q in task.queries)


def test_support_is_within_the_bank():
    with pytest.raises(ConfigError, match="more than the bank of 8"):
        PrintedTextTask(support=9, bank=8)
