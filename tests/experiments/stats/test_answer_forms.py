"""Forms of answers on hand-written outputs: shares, distances, sentences."""

import math

import pandas as pd
import pytest

from experiments.stats.answer_forms import (
    FORM,
    REASONED,
    answer_forms,
    describe_forms,
    form_shares,
    forms_differ,
    iter_notes,
    unparsed_outputs,
    wrapping_note,
)


def test_each_output_has_its_form_and_failed_samples_have_none():
    outputs = ["red", "The answer is red.", "<think>so</think> red", None, "blue"]
    frame = pd.DataFrame({"output": outputs, "failed": [None, None, None, None, "no image"]})
    columns = answer_forms(frame)
    assert columns[FORM].tolist() == ["bare", "labeled", "bare", "none", pytest.approx(math.nan, nan_ok=True)]
    assert columns[REASONED].tolist() == [False, False, True, False, False]
    assert answer_forms(frame[["output"]])[FORM].tolist() == ["bare", "labeled", "bare", "none", "bare"]


def test_shares_are_of_answered_samples_the_most_frequent_first():
    forms = pd.Series(["bare", "labeled", "labeled", None, "labeled"], dtype=object)
    assert form_shares(forms) == {"labeled": 0.75, "bare": 0.25}
    assert list(form_shares(forms)) == ["labeled", "bare"]
    assert form_shares(pd.Series([None], dtype=object)) == {}


def test_rare_forms_are_not_named():
    assert (
        describe_forms({"labeled": 0.9, "bare": 0.02, "none": 0.08}) == "90 % labeled, 2 % bare, 8 % without an answer"
    )
    assert describe_forms({"labeled": 0.99, "bare": 0.01}) == "99 % labeled"


@pytest.mark.parametrize(("share", "differs"), [(0.875, True), (0.901, False)])
def test_forms_differ_from_a_tenth_of_the_outputs_on(share, differs):
    """Half the sum of the differences: a share that moves from one form to another counts once."""
    assert forms_differ({"bare": 1.0}, {"bare": share, "labeled": 1 - share}) is differs
    assert forms_differ({"bare": share, "labeled": 1 - share}, {"bare": 1.0}) is differs


def arm(*forms: str | None, **more: object) -> pd.DataFrame:
    return pd.DataFrame({FORM: pd.Series(list(forms), dtype=object), "strict": 1.0, **more})


def test_arms_that_write_alike_or_have_no_forms_have_no_note():
    bare, labeled = arm("bare", "bare"), arm("labeled", "bare")
    assert wrapping_note(bare, bare, ("a", "b")) == ""
    assert wrapping_note(bare.drop(columns=FORM), labeled, ("a", "b")) == ""
    assert wrapping_note(labeled, bare.drop(columns=FORM), ("a", "b")) == ""
    assert wrapping_note(arm(None), labeled, ("a", "b")) == wrapping_note(labeled, arm(None), ("a", "b")) == ""


def test_the_note_names_the_forms_of_both_arms_and_what_measures_them():
    words = "The arms write their answers differently (0 shots: 50 % bare, 50 % labeled; 2 shots: 100 % bare)"
    note = wrapping_note(arm("labeled", "bare"), arm("bare", "bare"), ("0 shots", "2 shots"))
    assert note == f"{words}, so this can be format: the metrics strict and lenient would measure it."
    both = wrapping_note(arm("labeled", "bare"), arm("bare", "bare", lenient=1.0), ("0 shots", "2 shots"))
    assert both == f"{words}, so this can be format: `format_gain` measures it."


def test_an_output_without_a_form_or_without_yes_no_or_option_is_unparsed():
    gold_yes, gold_red = ["Yes"], ["red"]
    frame = pd.DataFrame(
        {
            "output": ["Yes.", "perhaps", "red", "purple", "", "no", ""],
            "gold": [gold_yes, gold_yes, gold_red, gold_red, gold_red, [], gold_yes],
        }
    )
    forms = pd.Series(["bare", "bare", "bare", "bare", "none", "bare", math.nan], dtype=object)
    named = pd.Series([False, False, True, False, True, True])  # the last sample failed and has no entry
    assert unparsed_outputs(frame, forms, named).tolist() == [False, True, False, True, True, False, False]
    without_gold = unparsed_outputs(frame[["output"]], forms, None)
    assert without_gold.tolist() == [False] * 4 + [True, False, False]


def test_notes_count_what_was_cut():
    yes, no = pd.Series([True, False, True]), pd.Series([False] * 3)
    cut = pd.Series([True, True, False])
    assert list(iter_notes(no, no, cut)) == []
    assert list(iter_notes(yes, no, no)) == ["2 of 3 outputs give no answer that could be read"]
    assert list(iter_notes(yes, yes, cut)) == [
        "2 of 3 outputs give no answer that could be read; 1 of them were cut at max_new_tokens",
        "the thinking of 2 of 3 outputs was cut at max_thinking_tokens",
    ]
