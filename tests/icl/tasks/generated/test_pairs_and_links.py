"""Matching, interleaved operators and link-context episodes."""

from collections import Counter

import pytest

from icl.errors import ConfigError, DataError
from icl.tasks.generated.drawing import DigitImage, Drawing
from icl.tasks.generated.link_context import LinkContextTask
from icl.tasks.generated.operators import InterleavedOperatorsTask, OperatorsTask
from icl.tasks.generated.pairs import MatchingTask


@pytest.mark.parametrize(("by", "same"), [("pair", (0, 1)), ("color", (0,)), ("shape", (1,))])
def test_a_pair_matches_exactly_if_the_relation_holds(by, same):
    task = MatchingTask(by=by, query_limit=60)
    for example in (*task.queries, *task.pool("").examples):
        one, other = example.secret["concepts"]
        assert (example.answer == "yes") == all(one[i] == other[i] for i in same)
        assert len({image.digest for image in example.images}) == 2


def test_every_two_pairs_have_one_match_in_a_random_order():
    examples = MatchingTask().pool("").examples
    twos = [(examples[i].answer, examples[i + 1].answer) for i in range(0, 200, 2)]
    assert set(twos) == {("yes", "no"), ("no", "yes")}
    assert min(Counter(twos).values()) > 25
    official = MatchingTask(official_order=True)
    assert [e.answer for e in official.pool("").examples] == ["yes", "no"] * 100
    assert [e.answer for e in official.queries] == [e.answer for e in MatchingTask().queries]


def test_interleaved_sums_are_those_of_operators_in_two_images():
    task, sums = InterleavedOperatorsTask(query_limit=6), OperatorsTask(query_limit=6)
    for query, whole in zip(task.queries, sums.queries, strict=True):
        assert (query.id, query.answers, query.options) == (whole.id, whole.answers, whole.options)
        assert len(query.images) == 2
        pool = [(e.id, e.answer) for e in task.pool(query.id).examples]
        assert pool == [(e.id, e.answer) for e in sums.pool(whole.id).examples]
    with pytest.raises(ConfigError, match="support 55 is more than the 54 other pairs"):
        InterleavedOperatorsTask(support=55)


def test_a_digit_is_the_left_one_of_a_sum_whole_and_alone():
    for value in range(10):
        for i in range(20):
            digit, whole = DigitImage(0, f"t{i}", value)(), Drawing(0, f"t{i}", "digits", left=value, right=0)()
            ground = whole.getpixel((0, 0))
            inked = [x for x in range(64) for y in range(64) if digit.getpixel((x, y)) != ground]
            assert 21 < min(inked) <= max(inked) < 42  # nothing is cut at the borders of the strip
            assert digit.crop((21, 0, 43, 64)).tobytes() == whole.crop((0, 0, 22, 64)).tobytes()


def test_the_bank_of_digits_is_shared_by_pools_and_holds_no_query_s():
    task = InterleavedOperatorsTask(query_limit=30, bank=2)
    pools = {p.origin for q in task.queries for e in task.pool(q.id).examples for p in e.images}
    assert len(pools) == 20
    assert not pools & {p.origin for q in task.queries for p in q.images}


def test_link_context_asks_for_either_side_equally():
    queries = LinkContextTask(query_limit=60).queries
    assert Counter(q.secret["side"] for q in queries) == {"positive": 30, "neighbor": 30}
    places = Counter((q.secret["side"], q.options.index(q.answer)) for q in queries)
    assert len(places) == 4  # neither side nor place tells the other
    assert min(places.values()) > 8


def test_the_neighbor_looks_alike_and_keeps_its_true_name():
    task = LinkContextTask(query_limit=20)
    for query in task.queries:
        pool = task.pool(query.id).examples
        concepts = {e.secret["side"]: tuple(e.secret["concept"]) for e in pool}
        positive, neighbor = concepts["positive"], concepts["neighbor"]
        assert (positive[0] == neighbor[0]) != (positive[1] == neighbor[1])
        names = {e.secret["side"]: e.answer for e in pool}
        assert names["neighbor"] == " ".join(neighbor)
        assert set(query.options) == set(names.values())
        assert Counter(e.answer for e in pool[:2]) == dict.fromkeys(names.values(), 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="support 40 is more than the bank of 32"):
        LinkContextTask(support=40)
    with pytest.raises(DataError, match="no query 'link_context-00003'"):
        LinkContextTask(query_limit=3).pool("link_context-00003")
