"""Tests of baselines from demonstrations without a model."""

from icl.metrics.base import BASELINES, last_copy, nearest_copy, vote, weighted_vote
from icl.types import Demo, Example, Query

QUERY = Query("q", (), "?")


def demos(*pairs: tuple[str, float]) -> list[Demo]:
    """In prompt order, the nearest last, as a prompt shows them by default."""
    return [
        Demo(Example(f"d{i}", (), "?", (answer,)), score, len(pairs) - 1 - i) for i, (answer, score) in enumerate(pairs)
    ]


def test_the_vote_is_the_most_frequent_answer_whatever_its_case():
    assert vote(demos(("red", 0.1), ("Red.", 0.2), ("blue", 0.9)), QUERY) == "Red."
    assert vote(demos(("red", 0.1), ("red", 0.2), ("blue", 0.9)), QUERY) == "red"


def test_a_tied_vote_goes_to_the_nearest():
    assert vote(demos(("red", 0.1), ("blue", 0.2)), QUERY) == "blue"
    assert vote(demos(("blue", 0.1), ("red", 0.2), ("red", 0.3), ("blue", 0.4)), QUERY) == "blue"
    shuffled = [
        Demo(d.example, d.score, rank) for d, rank in zip(demos(("red", 0.9), ("blue", 0.1)), (0, 1), strict=True)
    ]
    assert vote(shuffled, QUERY) == "red"


def test_weights_are_positive_scores():
    assert weighted_vote(demos(("red", 0.1), ("red", 0.1), ("blue", 0.9)), QUERY) == "blue"
    assert weighted_vote(demos(("red", -5.0), ("blue", 0.1)), QUERY) == "blue"
    assert weighted_vote(demos(("red", 0.4), ("red", 0.4), ("blue", 0.7)), QUERY) == "red"


def test_scores_that_say_nothing_leave_the_plain_vote():
    assert weighted_vote(demos(("red", 0.0), ("red", 0.0), ("blue", 0.0)), QUERY) == "red"


def test_copies_read_place_and_rank():
    both = demos(("red", 0.1), ("blue", 0.9))
    assert last_copy(both, QUERY) == nearest_copy(both, QUERY) == "blue"
    assert last_copy(both[::-1], QUERY) == "red"
    assert nearest_copy(both[::-1], QUERY) == "blue"
    level = [Demo(one.example, one.score, 0) for one in both]
    assert nearest_copy(level, QUERY) == vote(level, QUERY) == "blue"
    assert nearest_copy(level[::-1], QUERY) == vote(level[::-1], QUERY) == "red"


def test_without_demonstrations_nothing_is_predicted():
    assert {name: baseline([], QUERY) for name, baseline in BASELINES.items()} == dict.fromkeys(BASELINES)
