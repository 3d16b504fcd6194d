"""What a model knows and how it writes it are told apart, on models that are always right or never answer."""

from typing import Any

from experiments.analyses import answer_forms, format_gain
from experiments.stats.compare import compare


def test_a_model_that_is_always_right_gains_nothing_but_form(ran: Any, scripted: Any) -> None:
    view = ran(model=scripted("bold_without_demonstrations"), grid={"shots": [0, 2]}, metrics=["strict", "lenient"])
    gain = compare(view.scores, {"shots": 0}, "lenient", axes=view.axes)
    assert list(gain["difference"]) == [0.0]
    (row,) = format_gain.analyze(view).to_dict("records")
    assert (row["gain_strict"], row["gain_lenient"], row["format_gain"]) == (1.0, 0.0, 1.0)
    without, with_demos = answer_forms.analyze(view).to_dict("records")
    assert (without["shots"], without["strict"], without["lenient"], without["labeled"]) == (0, 0.0, 1.0, 1.0)
    assert (with_demos["shots"], with_demos["strict"], with_demos["bare"], with_demos["unparsed"]) == (2, 1.0, 1.0, 0.0)


def test_outputs_without_an_answer_are_counted(ran: Any, scripted: Any) -> None:
    (row,) = answer_forms.analyze(ran(model=scripted("endless_thought"), shots=1)).to_dict("records")
    assert (row["unparsed"], row["reasoned"], row["lenient"]) == (1.0, 1.0, 0.0)
