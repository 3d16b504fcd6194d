"""Tests of the yes/no rules."""

import pytest

from icl.metrics.binary import F1
from icl.metrics.lenient import Lenient
from icl.metrics.yes_no import Pope, UnparsedRate, YesRatio, parse_pope, parse_yes_no
from icl.types import Example, Generation

ASKS = Example("e", (), "is there a dog?", ("no",), ("yes", "no"))
OPEN = Example("e", (), "what is it?", ("a dog",))


@pytest.mark.parametrize(
    ("output", "ours", "popes"),
    [
        ("Yes, there is.", "yes", "yes"),
        ("no", "no", "no"),
        ("No, there is nothing", "no", "no"),  # commas go
        ("NO", "no", "yes"),  # the released rule knows No, no and not alone
        ("no!", "no", "yes"),
        ("", None, "yes"),
        ("a cat", None, "yes"),
        ("There is not a dog", "no", "no"),
        ("There is a cat. No dog.", "no", "yes"),  # the released rule reads the first sentence
        ("yes and no", None, "no"),
        ("it could be yes, it could be no", None, "no"),
    ],
)
def test_the_two_rules_differ_as_published_figures_do(output, ours, popes):
    assert parse_yes_no(output) == ours
    assert parse_pope(output) == popes


def test_metrics_apply_to_yes_no_questions_alone():
    answer = Generation("perhaps")
    assert [m.score(answer, ASKS) for m in (YesRatio(), UnparsedRate(), Pope())] == [0, 1, 0]
    assert [m.score(answer, OPEN) for m in (YesRatio(), UnparsedRate(), Pope())] == [None, None, None]


def test_yes_ratio_counts_the_answers_and_not_the_gold():
    assert YesRatio().score(Generation("Yes."), ASKS) == 1
    assert YesRatio().score(Generation("no"), ASKS) == 0
    assert UnparsedRate().score(Generation("no"), ASKS) == 0


def test_every_score_of_yes_and_no_reads_the_answer_behind_the_reasoning():
    output = Generation("<think>No cat at first sight. No.</think>\n\nThe answer is **yes**.")
    example = Example("e", (), "?", ("yes",), ("yes", "no"))
    scores = [metric.score(output, example) for metric in (Lenient(), F1(), YesRatio(), UnparsedRate())]
    assert scores == [1.0, 1.0, 1.0, 0.0]
