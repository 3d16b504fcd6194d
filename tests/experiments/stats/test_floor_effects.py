import re

import pandas as pd

from experiments.results.view_run import view_run
from experiments.stats.floor_effects import ceiling_effects, floor_effects, names_option, rarely_an_option


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
    monkeypatch.setattr("experiments.stats.floor_effects.OPTION_SHARE_LIMIT", 1.1)
    sentences = view_run(written(queries=6, tasks=("shapes",))).findings
    (answers,) = (one for one in sentences if one.topic == "Answers")
    assert answers.sentence == (
        "no arm names one of the options in more than 1.000 of its answers; "
        "the scores mostly measure how often one is named."
    )
    assert len(sentences) > 1


def test_a_task_at_its_ceiling_has_that_finding_alone(written, monkeypatch):
    monkeypatch.setattr("experiments.stats.floor_effects.CEILING", 0.3)
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
    monkeypatch.setattr("experiments.stats.floor_effects.CEILING", lowest + 0.001)
    assert not [one for one in view.findings if one.topic == "Answers"]


def test_arms_with_equal_right_answers_are_at_the_ceiling(written, monkeypatch):
    monkeypatch.setattr("experiments.stats.floor_effects.CEILING", 0.0)
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
