import pytest

from experiments.stats.curve_summary import summarize_curve


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
