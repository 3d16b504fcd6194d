"""A task whose pool has wrong labels, the same ones for every query."""

from itertools import pairwise

import pytest

from icl.errors import DataError
from icl.registry import build
from icl.testing.conformance import check_task

GATED = {"name": "gated", "queries": 6}


def mislabeled(of=GATED, **more):
    return build("task", {"name": "mislabeled", "of": of, **more})


def wrong_ids(task, query=""):
    members, original = task.pool(query).examples, task.of.pool(query).by_id
    return {member.id for member in members if member.answers != original[member.id].answers}


@pytest.mark.parametrize("of", [GATED, {"name": "binding", "queries": 6}])
def test_it_keeps_the_promises_of_a_task(of):
    check_task(mislabeled(of), queries=4)


def test_wrong_members_answer_with_another_option_and_queries_keep_their_gold():
    task = mislabeled({**GATED, "support": 400})
    wrong = wrong_ids(task)
    assert len(wrong) == pytest.approx(200, abs=40)
    for member in task.pool("").examples:
        right = task.of.pool("").by_id[member.id].answers
        assert set(member.answers) <= set(member.options)
        assert set(member.answers).isdisjoint(right) == (member.id in wrong)
        assert member.label in (None, member.answer)
    assert [query.answers for query in task.queries] == [query.answers for query in task.of.queries]


def test_each_other_option_is_as_likely_a_wrong_answer():
    task = mislabeled({**GATED, "support": 600}, share=1)
    others = []
    for member in task.pool("").examples:
        right = task.of.pool("").by_id[member.id].answer
        others.append([option for option in member.options if option != right].index(member.answer))
    places = range(len(task.queries[0].options) - 1)
    assert len(places) > 1
    assert [others.count(place) / 600 for place in places] == pytest.approx([1 / len(places)] * len(places), abs=0.07)


def test_all_queries_have_the_same_errors_and_a_larger_share_contains_them():
    task = mislabeled()
    assert task.pool("a") is task.pool("b")
    shares = [wrong_ids(mislabeled(share=share)) for share in (0, 0.25, 0.5, 1)]
    assert all(few < many for few, many in pairwise(shares))
    assert len(shares[0]) == 0
    assert len(shares[-1]) == task.pool_size
    assert wrong_ids(mislabeled(seed=1)) != shares[2]


def test_a_member_without_another_option_is_an_error_that_says_what_to_use():
    task = mislabeled({"name": "captions", "queries": 4}, share=1)
    with pytest.raises(DataError, match=r"no other option to answer with\. Use a task with options, or .*noisy_labels"):
        task.pool(task.queries[0].id)
