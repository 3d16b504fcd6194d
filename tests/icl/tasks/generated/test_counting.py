"""Tests of counting in scenes."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.tasks.generated.scenes import CountingTask


def number(example, word) -> int:
    return sum(count for color, shape, count in example.secret["groups"] if word in (color, shape))


@pytest.mark.parametrize("by", ["color", "shape"])
def test_the_answer_is_the_number_of_shapes_of_the_word_that_is_asked(by):
    for query in CountingTask(by=by, bare=True).queries:
        assert query.answer == str(number(query, query.question.removesuffix("?")))


def test_by_both_counts_one_kind_and_by_all_counts_everything():
    for query in CountingTask(by="both").queries[:50]:
        words = query.question.split()
        color, plural = words[2], words[3]
        assert query.answer == str(sum(n for c, s, n in query.secret["groups"] if c == color and plural.startswith(s)))
    for query in CountingTask(by="all").queries[:50]:
        assert query.question == "how many shapes are there?"
        assert query.answer == str(sum(n for _, _, n in query.secret["groups"]))


def test_answers_are_balanced_in_queries_and_pool():
    task = CountingTask()
    for examples in (task.queries, task.pool("").examples):
        assert set(Counter(e.answer for e in examples).values()) == {50}


def test_the_demonstrations_decide_what_a_bare_word_asks():
    numbers, presence = CountingTask(bare=True), CountingTask(bare=True, answer="presence")
    assert {e.answer for e in numbers.pool("").examples} == {"0", "1", "2", "3"}
    assert Counter(e.answer for e in presence.pool("").examples) == {"yes": 100, "no": 100}
    for query in presence.queries:
        assert (query.answer == "yes") == (number(query, query.question.removesuffix("?")) > 0)
    assert all(query.question.count(" ") == 0 for query in (*numbers.queries, *presence.queries))


def test_a_pair_names_the_property_of_the_same_word():
    for by, word in (("color", "color"), ("shape", "shape")):
        bare, pair = CountingTask(by=by, bare=True), CountingTask(by=by, bare=True, pair=True)
        for one, other in zip(bare.queries, pair.queries, strict=True):
            assert other.question == f"{word}: {one.question.removesuffix('?')}"
            assert (one.answers, one.images) == (other.answers, other.images)
    with pytest.raises(ConfigError, match="it needs bare: true"):
        CountingTask(pair=True)


def test_the_image_shows_the_groups_that_were_counted():
    for query in CountingTask(query_limit=10).queries:
        assert [[g.color, g.shape, g.count] for g in query.images[0].load.groups] == query.secret["groups"]


def test_combinations_without_a_wording_are_refused():
    with pytest.raises(ConfigError, match="one word, by color or by shape, not by both"):
        CountingTask(by="both", bare=True)
    with pytest.raises(ConfigError, match="presence needs bare"):
        CountingTask(answer="presence")
