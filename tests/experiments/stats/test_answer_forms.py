"""Forms of answers on hand-written outputs: shares, distances, sentences."""

import math
import re

import pandas as pd
import pytest

from experiments.results.view_run import view_run
from experiments.stats.answer_forms import (
    FORM,
    REASONED,
    answer_forms,
    ceiling_effects,
    describe_forms,
    floor_effects,
    form_shares,
    forms_differ,
    iter_notes,
    names_option,
    numberless_outputs,
    rarely_an_option,
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


def test_an_output_without_a_number_counts_where_the_gold_answer_is_one():
    frame = pd.DataFrame({"output": ["3", "a few", "a few", "a few"], "gold": [["4"], ["4"], ["red"], ["4"]]})
    forms = pd.Series(["bare", "bare", "bare", None], dtype=object)
    counted = numberless_outputs(frame, forms, of_all=False)
    assert counted.tolist() == [False, True, False, False]
    assert numberless_outputs(frame, forms, of_all=True).tolist() == [False, True, True, False]
    never = pd.Series([False] * 4)
    assert list(iter_notes(counted, never, never, never, counted)) == ["1 of 4 outputs state no number"]


def test_notes_count_what_was_cut():
    yes, no = pd.Series([True, False, True]), pd.Series([False] * 3)
    cut = pd.Series([True, True, False])
    assert list(iter_notes(no, no, cut, no)) == []
    assert list(iter_notes(yes, no, no, no)) == ["2 of 3 outputs give no answer"]
    assert list(iter_notes(yes, yes, cut, no)) == [
        "2 of 3 outputs give no answer; 1 of them were cut at max_new_tokens",
        "the thinking of 2 of 3 outputs was cut at max_thinking_tokens",
    ]
    assert list(iter_notes(no, no, no, yes)) == ["2 of 3 outputs are unread: they may be right or wrong"]


def test_a_task_at_the_floor_has_that_finding_alone(written):
    sentences = view_run(written(queries=6, saying={"binding, 2-way": "I cannot see it"})).findings
    (answers,) = (one for one in sentences if one.topic == "Answers")
    assert answers.subject == "binding, 2-way"
    assert answers.sentence == "no answer of any arm is one of the options; the model does not do this task."
    assert {one.subject for one in sentences if one.topic in {"ICL gain", "Retrieval", "Decoding"}} == {"shapes"}


def test_arms_with_equal_answers_have_one_sentence(written):
    sentences = view_run(written(queries=6, tasks=("shapes",), saying={"shapes": "it is gold"})).findings
    assert [one.claim for one in sentences if one.topic != "Vote"] == [
        "every arm gives the same answers, so nothing distinguishes the arms."
    ]


def test_a_task_whose_arms_differ_has_no_floor_sentence(written):
    assert not [one for one in view_run(written(queries=6)).findings if one.topic == "Answers"]


def test_a_task_whose_answers_are_rarely_options_is_reported(written, monkeypatch):
    monkeypatch.setattr("experiments.stats.answer_forms.OPTION_SHARE_LIMIT", 1.1)
    sentences = view_run(written(queries=6, tasks=("shapes",))).findings
    (answers,) = (one for one in sentences if one.topic == "Answers")
    assert answers.sentence == (
        "no arm names one of the options in more than 1.000 of its answers; "
        "the scores mostly measure how often one is named."
    )
    assert len(sentences) > 1


def test_a_task_at_its_ceiling_has_that_finding_alone(written, monkeypatch):
    monkeypatch.setattr("experiments.stats.answer_forms.CEILING", 0.3)
    sentences = view_run(written(queries=40, tasks=("shapes",))).findings
    (answers,) = (one for one in sentences if one.topic == "Answers")
    assert re.fullmatch(
        r"ceiling effect: no arm is below \.\d+ \(\.\d+ without demonstrations\), so no gain can be measured\.",
        answers.sentence,
    )
    assert not [one for one in sentences if one.verdict == "open" and one is not answers]
    assert not [one for one in sentences if one.topic in ("Vote", "Retrieval") and one.verdict == "better"]


def test_a_task_that_every_arm_answers_has_a_ceiling_of_one_number():
    rows = [{"task": "a", "shots": k, "query": f"q{i}", "lenient": 1.0} for k in (0, 4) for i in range(3)]
    sentences = ceiling_effects(pd.DataFrame(rows), "lenient", ("task", "shots"))
    assert sentences == {"a": "ceiling effect: every arm scores 1.000, so no gain can be measured."}


def test_a_task_with_one_arm_below_has_no_ceiling(written, monkeypatch):
    view = view_run(written(queries=40, tasks=("shapes",)))
    lowest = view.scores.groupby(["shots", "retriever", "decoding"])["lenient"].mean().min()
    monkeypatch.setattr("experiments.stats.answer_forms.CEILING", lowest + 0.001)
    assert not [one for one in view.findings if one.topic == "Answers"]


def test_arms_with_equal_right_answers_are_at_the_ceiling(written, monkeypatch):
    monkeypatch.setattr("experiments.stats.answer_forms.CEILING", 0.0)
    sentences = view_run(written(queries=6, tasks=("shapes",), saying={"shapes": "it is gold"})).findings
    assert [one.claim[:16] for one in sentences if one.topic == "Answers"] == ["ceiling effect: "]


def outputs(*texts, failed=None, options=("red", "blue"), shots=0):
    rows = [
        {
            "task": "a",
            "shots": shots,
            "query": f"q{i}",
            "seed": 0,
            "output": text,
            "options": list(options),
            "demos": [],
        }
        for i, text in enumerate(texts)
    ]
    frame = pd.DataFrame(rows)
    return frame if failed is None else frame.assign(failed=failed)


def test_an_output_names_an_option_word_for_word_or_in_a_sentence():
    frame = outputs("Red", "it is blue", "green", "red or blue", None)
    assert names_option(frame).tolist() == [True, True, False, False, False]
    assert names_option(outputs("anything", options=())).tolist() == [True]
    assert names_option(frame.drop(columns="options")).tolist() == [True] * 5
    without_shots = frame.drop(columns="demos")  # empty fields are not stored
    assert names_option(without_shots).tolist() == names_option(frame).tolist()


def test_failed_samples_and_frames_without_outputs_name_nothing():
    frame = outputs("red", "green", failed=[None, "no image"])
    assert names_option(frame).to_dict() == {0: True}
    assert names_option(frame.drop(columns="output")) is None
    assert names_option(frame.drop(columns="task")) is None


def test_a_single_arm_never_gives_the_same_answers_as_others():
    one = outputs("red", "blue")
    both = pd.concat([one, outputs("red", "blue", shots=2)], ignore_index=True)
    other = pd.concat([one, outputs("red", "red", shots=2)], ignore_index=True)
    same = {"a": "every arm gives the same answers, so nothing distinguishes the arms."}
    sentences = [floor_effects(f, ("task", "shots"), names_option(f)) for f in (one, both, other)]
    assert sentences == [{}, same, {}]


def test_half_of_the_answers_are_not_rare_and_none_is_the_floor():
    sentence = (
        "no arm names one of the options in more than {} of its answers; the scores mostly measure how often one "
    )
    for texts, expected in (
        (["red", "so", "so"], {"a": sentence.format(".333") + "is named."}),
        (["red", "so"], {}),
        (["so", "so"], {}),
    ):
        frame = outputs(*texts)
        assert rarely_an_option(frame, ("task", "shots"), names_option(frame)) == expected


def test_a_ceiling_needs_two_arms_and_scores_up_to_one():
    def means(*values):
        rows = [{"task": "a", "shots": k, "lenient": value} for k, value in enumerate(values)]
        return ceiling_effects(pd.DataFrame(rows), "lenient", ("task", "shots"))

    assert means(0.98) == {}
    assert means(0.98, 1.5) == {}, "a score above one has no ceiling of one"
    assert means(0.9699, 0.99) == {}
    assert means(0.97, 0.99) == {
        "a": "ceiling effect: no arm is below .970 (.970 without demonstrations), so no gain can be measured."
    }
    rows = [{"task": "a", "shots": k, "lenient": 0.98} for k in (2, 4)]
    assert ceiling_effects(pd.DataFrame(rows), "lenient", ("task", "shots")) == {
        "a": "ceiling effect: no arm is below .980, so no gain can be measured."
    }
