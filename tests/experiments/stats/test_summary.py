"""Rows of arms: means, intervals and counts, and averages over parts with equal weights."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.stats.intervals import wilson
from experiments.stats.summary import macro_average, part_weights, summarize_arms, summarize_curve


def test_an_arm_is_a_row_with_its_interval_over_queries(arm):
    frame = pd.concat([arm([1, 1, 0, 1], shots=0, decoding="greedy"), arm([1, 0, 0, 0], shots=4, decoding="greedy")])
    table = summarize_arms(frame, "lenient", ["shots", "decoding"])
    assert list(table["shots"]) == [0, 4]
    assert list(table["mean"]) == [0.75, 0.25]
    assert (table["low"][0], table["high"][0]) == pytest.approx(wilson(3, 4))


def test_seeds_are_counted_and_are_not_units(arm):
    row = summarize_arms(arm([[1, 1, 0, 1], [1, 0, 0, 1]], seeds=2), "lenient", []).iloc[0]
    assert (row["samples"], row["clusters"], row["queries"], row["seeds"]) == (8, 4, 4, 2)
    assert row["seed_sd"] == pytest.approx(0.25 / 2**0.5)


def test_samples_without_a_score_are_counted_as_missing(arm):
    row = summarize_arms(arm([1, None, 0]), "lenient", []).iloc[0]
    assert (row["mean"], row["samples"], row["missing"]) == (0.5, 2, 1)


def test_an_arm_without_any_score_is_nan(arm):
    assert (
        summarize_arms(arm([None, None]), "lenient", []).iloc[0]["mean"]
        != summarize_arms(arm([1]), "lenient", []).iloc[0]["mean"]
    )


PARTS = np.array([0] * 6 + [1] * 2)


def test_each_part_has_the_same_weight():
    assert part_weights(PARTS).tolist() == [8 / 12] * 6 + [2.0] * 2
    values = np.array([1.0, 1, 1, 0, 0, 0, 1, 1])
    estimate = macro_average(values, PARTS, np.arange(8), is_share=True)
    assert (estimate.mean, estimate.samples, estimate.clusters) == (0.75, 8, 8)
    assert 0 < estimate.low < 0.75 < estimate.high <= 1


def test_a_small_spread_is_still_a_spread():
    """Scores that differ by millionths have an interval of millionths, not the one of scores without a spread."""
    estimate = macro_average(0.5 + 1e-6 * (np.arange(8) % 2), PARTS, np.arange(8), is_share=False)
    assert 0 < estimate.high - estimate.low < 1e-5


def test_one_part_is_the_mean_and_other_scores_have_students_interval():
    values = np.random.default_rng(0).normal(3.0, 1.0, 20)
    estimate = macro_average(values, np.zeros(20, dtype=np.intp), np.arange(20), is_share=False)
    expected = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_equal_scores_have_an_interval_from_the_number_of_clusters():
    estimate = macro_average(np.ones(8), PARTS, np.arange(8), is_share=True)
    assert (estimate.mean, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson(8, 8)[0])


def test_parts_that_are_all_right_have_an_interval_within_shares():
    """Numbers of groups of unequal sizes differ, although their mean is 1."""
    values, parts = np.array([0.75, 0.75, 1.5, 1.0, 1.0]), np.array([0, 0, 0, 1, 1])
    estimate = macro_average(values, parts, ["a", "a", "b", "c", "d"], is_share=True)
    assert (estimate.mean, estimate.high) == (1, 1)
    assert 0 < estimate.low < 1


def test_efficiency_is_the_mean_gain_on_the_true_axis_of_shots():
    curve = summarize_curve([0, 2, 4, 8], [0.5, 0.6, 0.7, 0.7])
    assert curve.efficiency == pytest.approx((0.05 * 2 + 0.15 * 2 + 0.2 * 4) / 8)
    assert curve.headroom == pytest.approx(curve.efficiency / 0.5)
    assert curve.gain == pytest.approx(0.2)
    assert curve.monotone


def test_efficiency_is_negative_where_shots_hurt():
    curve = summarize_curve([0, 1, 4], [0.8, 0.6, 0.7])
    assert curve.efficiency == pytest.approx(-(0.1 * 1 + 0.15 * 3) / 4)
    assert not curve.monotone


def test_peak_is_the_fewest_shots_on_a_tie_and_may_be_zero_shots():
    assert summarize_curve([0, 2, 4], [0.5, 0.9, 0.9]).peak_shots == 2
    assert summarize_curve([0, 2], [0.5, 0.4]).peak_shots == 0


def test_nothing_left_to_gain_has_no_headroom():
    assert summarize_curve([0, 4], [1.0, 0.9]).headroom is None


def test_the_curve_of_a_lower_is_better_score_is_that_of_one_minus_the_score():
    scores = [0.4, 0.5, 0.1, 0.2]
    curve, mirrored = (
        summarize_curve([0, 1, 2, 4], scores, "lower"),
        summarize_curve([0, 1, 2, 4], [1 - y for y in scores]),
    )
    assert (curve.peak, curve.peak_shots) == (pytest.approx(1 - mirrored.peak), mirrored.peak_shots)
    assert curve.headroom == pytest.approx(mirrored.headroom)
    assert curve.gain == pytest.approx(-mirrored.gain)
    assert summarize_curve([0, 1, 2], [0.4, 0.3, 0.1], "lower").monotone
    assert summarize_curve([0, 4], [0.0, 0.1], "lower").headroom is None


def test_a_curve_without_a_good_direction_has_no_peak():
    curve = summarize_curve([0, 4], [0.4, 0.5], "neither")
    assert (curve.headroom, curve.peak, curve.peak_shots, curve.monotone) == (None, None, None, None)
    assert curve.gain == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shots", "accuracy"),
    [([1, 2], [0, 1]), ([0, 4, 2], [0, 1, 1]), ([0, 2, 2], [0, 1, 1]), ([0], [1]), ([0, 1], [1])],
)
def test_a_curve_rises_from_zero_shots(shots, accuracy):
    with pytest.raises(ValueError, match="begin with 0"):
        summarize_curve(shots, accuracy)
