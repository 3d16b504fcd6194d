"""Sums on a grid do not depend on the order of their terms."""

import math

import numpy as np
import pytest

from experiments.stats.exact_sums import exactly_summable
from experiments.stats.sign_flips import subsets


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_sums_of_rounded_values_equal_the_exact_sum_in_any_order(scale):
    draw = np.random.default_rng(0)
    values = exactly_summable(draw.normal(size=400) * scale, 400)
    exact = math.fsum(values)
    for _ in range(20):
        assert float(np.cumsum(draw.permutation(values))[-1]) == exact


def test_rounding_is_far_below_reported_digits():
    values = np.random.default_rng(1).random((1000, 2))
    assert np.abs(exactly_summable(values, 1000) - values).max() < 1e-12


def test_whole_numbers_and_zeros_are_not_rounded():
    counts = np.array([[0.0, 3.0], [-2.0, 5.0], [0.0, 1.0]])
    assert np.array_equal(exactly_summable(counts, 10_000), counts)
    assert np.array_equal(exactly_summable(np.zeros(4), 4), np.zeros(4))


def test_sums_of_subsets_equal_the_exact_sum_of_each_subset():
    values = exactly_summable(np.random.default_rng(2).random(40), 40)
    chosen = np.concatenate(list(subsets(40, 50)))
    assert (chosen @ values).tolist() == [math.fsum(values[row == 1]) for row in chosen]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_the_rounding_is_at_most_2_to_the_minus_53_of_the_largest_sum(scale):
    """Also where that sum is just above a power of two, so that its grid is the coarsest for its size."""
    values = np.random.default_rng(3).random(64) * scale
    values[0] = 1.01 * 2.0 ** math.ceil(math.log2(scale))
    error = np.abs(exactly_summable(values, 64) - values).max()
    assert 0 < error <= 64 * values.max() * 2.0**-53


def test_sums_near_the_largest_possible_one_are_exact_too():
    """1,000 values near 1 need all of the 53 bits."""
    values = exactly_summable(0.98 + 0.02 * np.random.default_rng(4).random(1000), 1000)
    assert float(np.cumsum(values)[-1]) == math.fsum(values)
    assert float(np.cumsum(values[::-1])[-1]) == math.fsum(values)
