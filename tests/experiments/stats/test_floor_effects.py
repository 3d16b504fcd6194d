import re

import pandas as pd

from experiments.results.run_view import view_run
from experiments.stats.floor_effects import ceiling_effects


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
