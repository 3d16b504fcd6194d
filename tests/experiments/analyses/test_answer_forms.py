"""What a model knows and how it writes it are told apart, on models that are always right or never answer."""

from dataclasses import replace
from typing import Any

import pytest

from experiments.analyses import answer_forms, format_gain
from experiments.stats.compare import compare
from icl.errors import ConfigError


def test_a_model_that_is_always_right_gains_nothing_but_form(ran: Any, scripted: Any) -> None:
    view = ran(model=scripted("bold_without_demonstrations"), grid={"shots": [0, 2]}, metrics=["strict", "lenient"])
    gain = compare(view.scores, {"shots": 0}, "lenient", axes=view.axes)
    assert list(gain["difference"]) == [0.0]
    (row,) = format_gain.analyze(view).to_dict("records")
    assert (row["gain_strict"], row["gain_lenient"], row["format_gain"]) == (1.0, 0.0, 1.0)
    without, with_demos = answer_forms.analyze(view).to_dict("records")
    assert (without["shots"], without["strict"], without["lenient"], without["labeled"]) == (0, 0.0, 1.0, 1.0)
    assert (with_demos["shots"], with_demos["strict"], with_demos["bare"], with_demos["no_answer"]) == (
        2,
        1.0,
        1.0,
        0.0,
    )


def test_outputs_without_an_answer_are_counted(ran: Any, scripted: Any) -> None:
    (row,) = answer_forms.analyze(ran(model=scripted("endless_thought"), shots=1)).to_dict("records")
    assert (row["no_answer"], row["reasoned"], row["lenient"]) == (1.0, 1.0, 0.0)


def test_cut_thinking_has_a_column_only_where_some_was_cut(ran: Any, scripted: Any) -> None:
    view = ran(model=scripted("bold_without_demonstrations"), grid={"shots": [0, 2]})
    plain = answer_forms.analyze(view)
    assert "cut_thinking" not in plain
    assert plain.attrs["note"] == "no answer: empty, or none of the answers asked for; cut: at max_new_tokens"
    marks = ["cut" if shots == 2 and query.endswith("1") else "" for shots, query in zip(
        view.frame["shots"], view.frame["query"], strict=True)]  # fmt: skip
    cut = answer_forms.analyze(replace(view, frame=view.frame.assign(thinking=marks)))
    share = marks.count("cut") / (len(marks) / 2)
    assert dict(zip(cut["shots"], cut["cut_thinking"], strict=True)) == {0: 0.0, 2: share}
    assert cut.attrs["note"].endswith("; cut thinking: at max_thinking_tokens")


def test_a_gain_of_form_needs_both_scores_and_two_arms(ran: Any) -> None:
    with pytest.raises(ConfigError, match="needs the scores strict and lenient; it has no strict"):
        format_gain.analyze(ran(metrics=["lenient"], grid={"shots": [0, 2]}))
    with pytest.raises(ConfigError, match=r"compares arms, and the run has one\. Add `shots: \[0, 4\]`"):
        format_gain.analyze(ran(name="one", shots=2))


def test_gains_of_form_are_reported_for_each_axis_with_a_reference(ran: Any, scripted: Any) -> None:
    axes = {"shots": [0, 2], "retriever": ["random", "bm25"]}
    view = ran(model=scripted("bold_without_demonstrations"), grid=axes)
    rows = format_gain.analyze(view).to_dict("records")
    assert [(row["shots"], row["retriever"], row["against"], row["format_gain"]) for row in rows] == [
        (2, "random", "0 shots", 1.0),
        (2, "bm25", "0 shots", 1.0),
        (2, "bm25", "random", 0.0),
    ]
