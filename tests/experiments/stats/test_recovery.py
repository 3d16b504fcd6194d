"""The interval of the share of a gain that an intervention recovers."""

import numpy as np
import pytest

from experiments.stats.intervals import t_quantile
from experiments.stats.recovery import fieller_interval, recovery

ZERO, FEW = np.array([0, 0, 1, 0.0] * 10), np.array([1, 1, 1, 0.0] * 10)
CLUSTERS = np.arange(40)


def test_the_recovery_of_equal_scores_is_zero_or_one() -> None:
    assert recovery(ZERO, FEW, ZERO, CLUSTERS)["recovery"] == pytest.approx(0)
    full = recovery(ZERO, FEW, FEW, CLUSTERS)
    assert full["recovery"] == pytest.approx(1)
    assert 0.85 < full["low"] < 1 < full["high"] < 1.15, "no spread is no certainty, and a recovery may exceed 1"


def test_half_of_the_gain_is_one_half_and_lies_in_its_interval() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    result = recovery(ZERO, FEW, half, CLUSTERS)
    assert result["recovery"] == pytest.approx(0.5)
    assert result["low"] < 0.5 < result["high"]


def test_the_interval_covers_the_ratio_of_the_population() -> None:
    """Gain .4 from .4 to .8, steered .6: the recovery is one half."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        number = generator.random(120)
        before, after, steered = ((number < p).astype(float) for p in (0.4, 0.8, 0.6))
        result = recovery(before, after, steered, np.arange(120))
        covered += result["low"] <= 0.5 <= result["high"]
    assert 183 <= covered <= 198


def test_there_is_no_recovery_without_a_gain() -> None:
    assert all(np.isnan(value) for value in recovery(FEW, ZERO, FEW, CLUSTERS).values())
    assert all(np.isnan(value) for value in recovery(FEW, FEW, ZERO, CLUSTERS).values())


def test_there_is_no_recovery_of_a_gain_that_is_not_significant() -> None:
    five, six = (np.array([1.0] * number + [0.0] * (40 - number)) for number in (5, 6))
    nothing = np.zeros(40)
    assert np.isnan(recovery(nothing, five, nothing, CLUSTERS)["recovery"])  # p = .0625
    assert recovery(nothing, six, six, CLUSTERS)["recovery"] == pytest.approx(1)  # p = .031
    in_pairs = np.arange(40) // 2
    assert np.isnan(recovery(nothing, six, six, in_pairs)["recovery"])  # three clusters


def test_seeds_of_a_query_do_not_narrow_the_interval() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    once = recovery(ZERO, FEW, half, CLUSTERS)
    thrice = recovery(*(np.repeat(one, 3) for one in (ZERO, FEW, half, CLUSTERS)))
    assert thrice["recovery"] == pytest.approx(once["recovery"])
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"], rel=0.08)


def test_the_ends_are_the_ratios_whose_test_has_the_critical_value() -> None:
    """Gains in 8 clusters of unequal sizes, and four half queries with gains of 0 and 1."""
    sizes = np.array([1, 2, 3, 4, 5, 6, 7, 12])
    clusters, draw = np.repeat(np.arange(8), sizes), np.random.default_rng(1)
    gain = (draw.random(40) < 0.8).astype(float)
    own = gain * (draw.random(40) < 0.6)
    ends = fieller_interval(own, gain, clusters)
    assert ends is not None
    for end in ends:
        rest = own - end * gain
        added = np.array([y - end * x for x in (0, 1) for y in (0, 1)])
        mean = (rest.sum() + added.sum() / 2) / 42
        sums = [rest[clusters == c].sum() - size * mean for c, size in enumerate(sizes)]
        variance = 10 / 9 * (np.square(sums).sum() + np.square(added - mean).sum() / 2) / 42**2
        assert abs(mean) == pytest.approx(t_quantile(sizes.astype(float), 0.95) * variance**0.5)


def test_the_unit_of_scores_does_not_change_a_recovery() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    in_percent = recovery(100 * ZERO, 100 * FEW, 100 * half, CLUSTERS)
    assert in_percent == pytest.approx(recovery(ZERO, FEW, half, CLUSTERS))
