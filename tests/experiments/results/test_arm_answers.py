"""The answers of arms, on frames by hand."""

import math
from typing import Any

import pandas as pd
import pytest

from experiments.results.sample_notes import ArmAnswers, arm_answers, cut_columns, is_unremarkable, mask_note

AXES = ("task", "shots", "order", "decoding")


def frame(**columns: Any) -> pd.DataFrame:
    rows = {
        "task": "t",
        "shots": [0, 0, 2, 2],
        "order": ["none", "none", "a", "a"],
        "decoding": "greedy",
        "lenient": [1.0, 0.0, 1.0, 1.0],
        "answer_form": ["bare", "labeled", "bare", "bare"],
        "reasoned": [True, False, False, False],
        "unparsed": [False, False, False, True],
        "cut_answer": [True, True, False, False],
        "cut_thinking": [False, False, True, False],
    }
    return pd.DataFrame({**rows, **columns})


def test_answers_whose_options_are_all_masked_are_counted_by_arm() -> None:
    samples = pd.DataFrame({"decoding": ["vcd", "vcd", "greedy", "sid", "sid"], "masked": [1.0, None, None, 1.0, 1.0],
                            "failed": [None, None, None, None, "out of memory"]})  # fmt: skip
    assert mask_note(samples) == (
        "the mask excludes every option, at some token: 1 of 2 answers under vcd and 1 of 1 answers under sid. These "
        "options rank mostly by the number of their excluded tokens, then by the reference. `beta: 0` excludes nothing"
    )
    assert mask_note(samples.assign(masked=0)) == ""
    assert mask_note(samples.drop(columns="masked")) == ""


def test_each_arm_has_its_scores_shares_and_forms() -> None:
    none, some = arm_answers(frame(), AXES)
    assert none.arm == {"task": "t", "shots": 0, "order": "none"}
    assert (none.count, none.lenient, none.reasoned, none.unparsed) == (2, 0.5, 0.5, 0.0)
    assert (none.cut_answer, none.cut_thinking, dict(none.forms)) == (1.0, 0.0, {"bare": 0.5, "labeled": 0.5})
    assert none.wrapping == "50 % bare, 50 % labeled"
    assert (some.unparsed, some.cut_answer, some.cut_thinking, some.wrapping) == (0.5, 0.0, 0.5, "100 % bare")
    assert math.isnan(some.strict)
    assert arm_answers(frame(strict=0.25), AXES)[0].strict == 0.25


def test_failed_samples_have_no_form_and_no_part() -> None:
    (one,) = arm_answers(frame(answer_form=["bare", None, None, None]), AXES)
    assert (one.count, one.lenient, one.arm) == (1, 1.0, {"task": "t", "shots": 0})


def answers(task: str, forms: dict[Any, float], **more: float) -> ArmAnswers:
    shares = {"unread": 0.0, "unparsed": 0.0, "cut_answer": 0.0, "cut_thinking": 0.0, "reasoned": 0.0, **more}
    return ArmAnswers({"task": task, "shots": 0}, 10, 0.5, 0.5, **shares, forms=forms)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (answers("t", {"bare": 0.95, "labeled": 0.05}), True),
        (answers("t", {"bare": 0.5, "labeled": 0.5}), False),
        (answers("u", {"labeled": 1.0}), True),  # another task may be answered in another form
        (answers("t", {"bare": 1.0}, unparsed=0.1), False),
        (answers("t", {"bare": 1.0}, cut_thinking=0.1), False),
        (answers("t", {"bare": 1.0}, cut_answer=0.9, reasoned=0.9), True),
    ],
)
def test_arms_are_unremarkable_if_they_write_alike_and_answer(second: ArmAnswers, expected: bool) -> None:
    first = answers("t", {"bare": 1.0})
    assert is_unremarkable([first, second]) is expected
    assert is_unremarkable([first]) is is_unremarkable([]) is True


def test_what_was_cut_is_in_two_columns() -> None:
    own = pd.DataFrame({"finish": ["stop", "length", None], "thinking": ["cut", None, ""]}, index=[3, 5, 7])
    columns = cut_columns(own)
    assert columns["cut_answer"].to_dict() == {3: False, 5: True, 7: False}
    assert columns["cut_thinking"].to_dict() == {3: True, 5: False, 7: False}
    assert not cut_columns(own[[]])["cut_answer"].any()
