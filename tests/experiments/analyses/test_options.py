"""Calibration, option position and modality importance: by hand, and on models with known results."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.analyses import calibration, identifiability, modality_importance, option_shift
from icl.errors import ConfigError

REMOVED = [[{"name": name, "how": "removed", "where": "query"}] for name in ("images", "questions")]


def test_brier_is_summed_over_the_options() -> None:
    assert calibration.brier({"a": 0.8, "b": 0.2}, ["a"]) == pytest.approx(0.08)
    assert calibration.brier({"a": 1.0, "b": 0.0}, ["b"]) == 2.0
    assert calibration.brier({"a": 0.5, "b": 0.5}, ["a", "b"]) == 0.0


def test_bins_are_closed_above() -> None:
    """.2 is the end of the third of 15 bins and .21 begins the fourth; .19 shares the third."""
    two_bins = calibration.ece(np.array([0.2, 0.21]), np.array([0.0, 1.0]))
    assert two_bins == pytest.approx(0.5 * 0.2 + 0.5 * 0.79)
    together = calibration.ece(np.array([0.19, 0.2]), np.array([0.0, 1.0]))
    assert together == pytest.approx(0.5 - 0.195)
    assert calibration.ece(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 0.5


def test_shares_are_of_the_scored_options_and_a_tie_is_wrong() -> None:
    row = {"option_scores": {"Red": math.log(0.3), "blue": math.log(0.1)}, "gold": ("red",), "unit": 0}
    assert calibration.row_probabilities(row) == pytest.approx({"red": 0.75, "blue": 0.25})
    assert calibration.row_probabilities({"option_scores": {}}) == {}
    tied = {"option_scores": {"red": 0.0, "blue": 0.0}, "gold": ("red",), "unit": 1}
    measures = calibration._measured([row, tied])
    assert measures["accuracy"] == 0.5
    assert measures["confidence"] == pytest.approx((0.75 + 0.5) / 2)
    assert measures["over"] == pytest.approx(measures["confidence"] - 0.5)
    assert measures["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert measures["risk_50"] == 0.0
    assert measures["skew"] == pytest.approx((2 - 1.25) / 2)


def test_probabilities_of_accepted_options_are_added_and_risk_uses_half_of_the_samples() -> None:
    """Confidences .8, .7, .6, .5; the two surest are right, wrong. The last has two accepted options of .5 and .3."""
    answers = [({"a": 0.8, "b": 0.2}, "a"), ({"a": 0.3, "b": 0.7}, "a"), ({"a": 0.6, "b": 0.4}, "a")]
    rows = [{"shares": shares, "gold": (gold,)} for shares, gold in answers]
    rows.append({"shares": {"a": 0.5, "b": 0.3, "c": 0.2}, "gold": ("a", "b")})
    scored = [
        {
            "option_scores": {name: math.log(share) for name, share in row["shares"].items()},
            "gold": row["gold"],
            "unit": i,
        }
        for i, row in enumerate(rows)
    ]
    measures = calibration._measured(scored)
    assert measures["risk_50"] == 0.5
    assert measures["nll"] == pytest.approx(-sum(map(math.log, (0.8, 0.3, 0.6, 0.8))) / 4)
    assert measures["accuracy"] == 0.75


def test_the_skew_splits_a_sample_over_its_accepted_answers() -> None:
    """Labels wanted: a 1 + 1/2, b 1/2; said: a .8 + .4, b .2 + .6. An accepted answer that is no option has no part."""
    rows = [
        {"option_scores": {"a": math.log(0.8), "b": math.log(0.2)}, "gold": ("a",), "unit": 0},
        {"option_scores": {"a": math.log(0.4), "b": math.log(0.6)}, "gold": ("A.", "b", "both"), "unit": 1},
    ]
    assert calibration._measured(rows)["skew"] == pytest.approx((abs(1.2 - 1.5) + abs(0.8 - 0.5)) / 2 / 2)
    even = [{**rows[1], "option_scores": {"a": 0.0, "b": 0.0}}]
    assert calibration._measured(even)["skew"] == 0


def test_samples_with_a_single_option_are_left_out(ran: Any) -> None:
    view = ran(model="fake-gold", answer_mode="options", metrics=["option"])
    scores = [{"red": 0.0, "blue": math.log(0.25)} if i % 3 else {"red": 0.0} for i in range(len(view.frame))]
    gold = [("red",) if i % 2 else ("blue",) for i in range(len(scores))]
    changed_view = replace(view, frame=view.frame.assign(option_scores=scores, gold=gold))
    (row,) = calibration.analyze(changed_view).to_dict("records")
    golds = [answers for answers, own in zip(gold, scores, strict=True) if len(own) == 2]
    right = sum(answers == ("red",) for answers in golds)
    assert (row["n"], row["accuracy"]) == (len(golds), right / len(golds))
    assert row["confidence"] == pytest.approx(0.8)
    brier = (right * 2 * 0.2**2 + (len(golds) - right) * 2 * 0.8**2) / len(golds)
    assert row["brier"] == pytest.approx(brier)
    assert row["ece"] == pytest.approx(abs(right / len(golds) - 0.8))


@pytest.mark.parametrize(
    ("output", "turn"),
    [("B", (1, 1, True)), ("the red one", (1, 1, True)), ("blue", (0, 1, False)), ("A or B", (None, 1, False))],
)
def test_letters_stand_in_the_order_of_the_list_and_texts_are_read_too(output: str, turn: Any) -> None:
    row = {"options": ("A", "B"), "gold": ("B", "red"), "output": output, "meta": {"option_texts": ["blue", "red"]}}
    assert option_shift._turn(row, 1) == turn


def test_options_without_probability_have_no_shares() -> None:
    assert calibration.row_probabilities({"option_scores": {"a": -math.inf, "b": -math.inf}}) == {}
    assert calibration.row_probabilities({"option_scores": {"a": -math.inf, "b": 0.0}}) == {"a": 0.0, "b": 1.0}


def test_a_model_that_knows_is_right_and_its_confidence_is_reported(ran: Any, shapes: str) -> None:
    (row,) = calibration.analyze(ran(model="fake-gold", answer_mode="options", metrics=["option"])).to_dict("records")
    assert (row["accuracy"], row["risk_50"], row["n"]) == (1.0, 0.0, 12)
    assert row["ece"] == pytest.approx(1 - row["confidence"])
    with pytest.raises(ConfigError, match=r"no options were scored\. Run it with answer_mode: options"):
        calibration.analyze(ran(name="generated", task={"name": shapes, "optionless": True}))


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ((1, 1, 1), "either"),  # (with both, image alone, text alone)
        ((0, 0, 0), "unanswered"),  # the same signs as the one above
        ((1, 1, 0), "image"),
        ((1, 0, 1), "text"),
        ((1, 0, 0), "both"),
        ((0, 1, 0), "image"),
        ((0, 1, 1), "either"),
    ],
)
def test_the_signs_name_the_class_and_unanswered_is_a_separate_class(right: Any, expected: str) -> None:
    both, image, text = right
    scores = (both + image) / 2 - text, (both + text) / 2 - image
    assert modality_importance.modality_class(*scores, sum(right)) == expected


@pytest.mark.parametrize(
    ("name", "kind", "mis"),
    [
        ("needs_the_image", "image", (1.0, -0.5)),
        ("needs_both", "both", (0.5, 0.5)),
        ("needs_either", "either", (0.0, 0.0)),
        ("dunno", "unanswered", (0.0, 0.0)),
    ],
)
def test_importance_is_over_the_non_empty_sets(ran: Any, scripted: Any, name: str, kind: str, mis: Any) -> None:
    view = ran(model=scripted(name), shots=1, grid={"transforms": [[], *REMOVED, ["flip_labels"]]})
    (row,) = modality_importance.analyze(view).to_dict("records")
    assert (row["mis_image"], row["mis_text"]) == mis
    assert (row[kind], sum(row[one] for one in modality_importance.CLASSES)) == (1.0, 1.0)
    assert row["n"] == 12


def test_importance_does_not_depend_on_the_good_direction(ran: Any, scripted: Any) -> None:
    from tests.experiments.analyses.test_curves import PARTS

    view = ran("Wrong", model=scripted("needs_both"), metrics=[f"{PARTS}:Wrong"], grid={"transforms": [[], *REMOVED]})
    (row,) = modality_importance.analyze(view).to_dict("records")
    assert (row["both"], row["mis_image"]) == (1.0, 0.5)


def test_importance_needs_all_three_sets(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no setting was run with both modalities"):
        modality_importance.analyze(ran(grid={"transforms": [[], REMOVED[0]]}))


SHIFTS = [[{"name": "option_list", "shift": shift}] for shift in range(3)]


def test_a_model_that_takes_the_first_option_is_never_consistent(ran: Any, scripted: Any) -> None:
    (row,) = option_shift.analyze(ran(model=scripted("first_listed"), grid={"transforms": SHIFTS})).to_dict("records")
    assert (row["consistent"], row["first"], row["accuracy"]) == (0.0, 1.0, pytest.approx(1 / 3))
    assert row["chance"] == pytest.approx(1 / 27)
    assert row["sd"] == pytest.approx(np.std([1, 0, 0], ddof=1))
    assert row["questions"] == 12
    assert math.isnan(row["bias_rate"])


def test_a_model_that_knows_is_consistent_at_every_position(ran: Any) -> None:
    (row,) = option_shift.analyze(ran(model="fake-gold", grid={"transforms": SHIFTS})).to_dict("records")
    assert (row["consistent"], row["sd"], row["first"]) == (1.0, 0.0, pytest.approx(1 / 3))


def test_the_bias_rate_is_that_of_cmmu_without_consistent_questions() -> None:
    always_first = [(0, gold, gold == 0) for gold in range(4)]
    knowing = [(gold, gold, True) for gold in range(4)]
    statistics = option_shift.shift_statistics([("a", always_first), ("b", knowing)])
    assert statistics["bias_rate"] == 1875
    assert statistics["consistent"] == 0.5
    assert statistics["chance"] == pytest.approx(1 / 256)
    assert option_shift.bias_rate([0, 1, 2, 3]) == 0


def test_an_answer_in_words_is_read_and_an_unreadable_one_has_no_position() -> None:
    """Shifted by one, green is first and red last."""
    row = {"options": ["red", "green", "blue"], "gold": ["red"], "output": "It is red."}
    assert option_shift._turn(row, 0) == (0, 0, True)
    assert option_shift._turn({**row, "output": "green"}, 1) == (0, 2, False)
    for unread in ("red or green", "", None, float("nan")):
        assert option_shift._turn({**row, "output": unread}, 1) == (None, 2, False)


def test_a_gold_answer_that_is_no_option_has_no_position() -> None:
    row = {"options": ["red", "green"], "gold": ["blue"], "output": "red"}
    odd = [option_shift._turn(row, shift) for shift in (0, 1)]
    assert odd == [(0, None, False), (1, None, False)]
    statistics = option_shift.shift_statistics([("a", [(0, 0, True), (1, 1, True)]), ("b", odd)])
    assert (statistics["accuracy"], statistics["sd"]) == (0.5, 0.0)


def test_a_question_without_one_of_its_shifts_is_not_counted(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no question has samples for every shift"):
        option_shift.analyze(ran(grid={"transforms": SHIFTS[:2]}))


def test_identifiability_is_reported_for_each_sample(ran: Any) -> None:
    view = ran(task={"name": "operators", "queries": 9}, model="fake-gold", grid={"shots": [0, 1, 4]}, seeds=[0])
    table = identifiability.analyze(view).set_index("shots")
    assert table.loc[0, "identifiable"] == 0.0
    assert table.loc[0, "identifiable"] <= table.loc[1, "identifiable"] <= table.loc[4, "identifiable"]
    assert table.loc[4, "identifiable"] > 0.5
    assert (table.loc[0, "else"], table.loc[4, "where"]) == (1.0, 1.0)
    with pytest.raises(ConfigError, match=r"no sample has `meta\.identifiable`"):
        identifiability.analyze(ran(name="shapes"))
    named = ran(
        name="told", task={"name": "operators", "queries": 3, "name_operator": True}, model="fake-gold", shots=0
    )
    assert list(identifiability.analyze(named)["identifiable"]) == [1.0]


def test_the_style_of_images_does_not_change_identifiability(ran: Any) -> None:
    of = {"name": "operators", "queries": 4}
    plain = ran(name="plain", task=of, model="fake-gold", shots=3)
    noisy = ran(name="noisy", task={"name": "corrupted", "of": of}, model="fake-gold", shots=3)
    assert list(identifiability.analyze(plain)["identifiable"]) == list(identifiability.analyze(noisy)["identifiable"])
