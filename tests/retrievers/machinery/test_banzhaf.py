"""Banzhaf values from scores of sets."""

import itertools

import numpy as np
import pytest

from retrievers.machinery.trained_heads import banzhaf_values, complementary_sets


def test_the_values_are_the_mean_gains_over_all_sets_without_the_member() -> None:
    sets = list(itertools.product([False, True], repeat=4))
    score = dict(zip(sets, np.random.default_rng(0).normal(size=len(sets)), strict=True))
    values = banzhaf_values(np.array(sets), np.array(list(score.values())))
    for e in range(4):
        without = [one for one in sets if not one[e]]
        gains = [score[(*one[:e], True, *one[e + 1 :])] - score[one] for one in without]
        assert values[e] == pytest.approx(np.mean(gains))


def test_each_member_is_in_half_of_the_sets_so_additive_scores_are_estimated_without_bias() -> None:
    weights, estimates = np.array([1.0, -2.0, 0.5, 0.0]), []
    for seed in range(400):
        sets = complementary_sets(4, np.random.default_rng(seed))
        assert (sets.sum(axis=0) * 2 == len(sets)).all()
        estimates.append(banzhaf_values(sets, sets @ weights))
    assert np.mean(estimates, axis=0) == pytest.approx(weights, abs=0.25)


def test_a_member_of_all_sets_has_no_value() -> None:
    """Also where the sum of its scores and their total are rounded differently."""
    rng = np.random.default_rng(0)
    for sets in (2, 7, 100):
        assert np.isnan(banzhaf_values(np.array([[True, False]] * sets), rng.normal(-2, 1, sets))).all()
