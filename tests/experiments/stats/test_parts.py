"""The mean over parts of a data set, next to direct computations."""

import numpy as np
import pytest
from scipy import stats

from experiments.stats.intervals import wilson
from experiments.stats.parts import macro_average, part_weights

PARTS = np.array([0] * 6 + [1] * 2)


def test_each_part_has_the_same_weight():
    assert part_weights(PARTS).tolist() == [8 / 12] * 6 + [2.0] * 2
    values = np.array([1.0, 1, 1, 0, 0, 0, 1, 1])
    estimate = macro_average(values, PARTS, np.arange(8), is_share=True)
    assert (estimate.mean, estimate.samples, estimate.clusters) == (0.75, 8, 8)
    assert 0 < estimate.low < 0.75 < estimate.high <= 1


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
