"""Distances and tests, against other ways to compute them."""

import math
import random

import pytest
from scipy import stats

from icl.probe.distances import Answer, Scale, binomial_tail, distance, energy_test, fisher_fewer, mean_answer


def test_the_distance_is_the_root_mean_square_over_both_lists():
    a, b = Answer({"x": -1.0, "y": -2.0}), Answer({"x": -1.5, "z": -1.0})
    # x differs by .5; y is at least -2 - (-1.5) = 0 (no change); z is at least -1 - (-2) = 1
    assert distance(a, b) == pytest.approx(math.sqrt((0.25 + 0 + 1) / 3))
    assert distance(a, b) == distance(b, a)


def test_texts_differ_by_their_share():
    assert distance(Answer({}, ("a", "b", "c", "d")), Answer({}, ("a", "x", "c", "y"))) == 0.5


def test_a_mean_answer_has_the_tokens_of_all():
    mean = mean_answer([Answer({"x": -1.0, "y": -3.0}), Answer({"x": -2.0, "z": -3.0})])
    assert mean.top == {"x": -1.5}


@pytest.mark.parametrize(("k", "n"), [(0, 8), (5, 8), (8, 8), (12, 16)])
def test_the_binomial_tail_is_that_of_scipy(k, n):
    assert binomial_tail(k, n) == pytest.approx(stats.binomtest(k, n, 0.5, "greater").pvalue)


@pytest.mark.parametrize(("a", "n", "b", "m"), [(0, 4, 8, 8), (0, 5, 12, 12), (3, 5, 4, 9), (9, 16, 16, 16)])
def test_fishers_test_is_that_of_scipy(a, n, b, m):
    expected = stats.fisher_exact([[a, n - a], [b, m - b]], "less").pvalue
    assert fisher_fewer(a, n, b, m) == pytest.approx(expected)


def test_the_energy_test_tells_two_groups_apart_and_holds_its_level():
    def gap(a, b):
        return abs(a - b)

    rng = random.Random(0)
    of_different = energy_test([rng.gauss(0, 1) for _ in range(10)], [rng.gauss(3, 1) for _ in range(10)], gap, rng)
    assert of_different < 0.01
    p_values = [
        energy_test([rng.gauss(0, 1) for _ in range(6)], [rng.gauss(0, 1) for _ in range(6)], gap, rng)
        for _ in range(60)
    ]
    assert sum(p < 0.1 for p in p_values) <= 13  # 6 expected; 14 or more have a probability of .002


def test_only_a_clear_change_is_expected_and_never_of_texts():
    scale = Scale(noise=0.01, signal=1.0, of_texts=False)
    assert scale.tolerance == pytest.approx(0.03)
    assert scale.expects(0.7)
    assert not scale.expects(0.5)
    assert not Scale(noise=0.0, signal=1.0, of_texts=True).expects(1.0)
    assert Scale(noise=0.0, signal=1.0, of_texts=False).tolerance == 2e-3
