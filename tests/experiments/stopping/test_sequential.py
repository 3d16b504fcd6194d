"""Sign walks with a spent level: exact laws, published constants, and error rates at any stopping time."""

from itertools import product

import numpy as np
import pytest

from experiments.stats.significance import exact_sign_flip_p, mcnemar_p
from experiments.stopping.sequential import (
    boundaries,
    holm_decided,
    ladder,
    lattice,
    look_sizes,
    predictive_power,
    repeated_interval,
    z_boundaries,
    zero_mean_p,
)
from tests.experiments.stopping.anytime_p import anytime_p

LOOKS = [5, 10, 15, 20]


def test_the_boundaries_of_twenty_unit_steps():
    assert boundaries([1] * 20, LOOKS, 20, [0.05])[:, 0].tolist() == [np.inf, 9, 10, 9]


def test_the_ladder_has_the_levels_of_holm_that_matter():
    assert np.allclose(0.05 / ladder(8), [8, 5, 3, 2, 1])
    assert (0.05 / ladder(1)).tolist() == [1]
    assert np.allclose(0.05 / ladder(56), [56, 34, 21, 13, 8, 5, 3, 2, 1])


@pytest.mark.parametrize("sizes", [[1] * 12, [1, 3, 0, 2, 2, 1, 5, 1, 0, 3, 1, 1]])
def test_all_sign_patterns_keep_the_spent_level_and_the_order_of_levels(sizes):
    levels, looks = ladder(5, 0.2), [3, 6, 9, 12]
    signs = np.array(list(product([-1, 1], repeat=12)))
    bounds = boundaries(sizes, looks, 12, levels)
    totals = np.abs(np.cumsum(signs * sizes, axis=1))[:, [n - 1 for n in looks]]
    rejected = np.maximum.accumulate(totals[:, :, None] >= bounds, axis=1)  # pattern, look, level
    spent = np.array(looks)[:, None] / 12
    assert (rejected.mean(axis=0) <= levels * spent**2 + 1e-12).all()
    assert not (rejected[:, :, :-1] & ~rejected[:, :, 1:]).any(), "a lower level decides only what a higher one does"
    assert rejected[:, -1, -1].mean() > 0.05, "the level is used"


def test_one_look_is_the_sign_flip_test():
    draw = np.random.default_rng(1)
    for _ in range(50):
        sums = draw.integers(-2, 4, 25)
        for level in (0.01, 0.05, 0.3):
            decided = anytime_p(sums, [25], 25, [level])[0] <= level
            assert decided == (exact_sign_flip_p(sums) <= level)


def test_the_p_value_is_that_of_flipped_signs_and_never_rises():
    draw = np.random.default_rng(2)
    sums = draw.choice([-1, 0, 1, 2], 200, p=[0.1, 0.6, 0.2, 0.1])
    p = anytime_p(sums, look_sizes(200, 20), 200, ladder(8))
    assert np.array_equal(p, anytime_p(-sums, look_sizes(200, 20), 200, ladder(8)))
    assert (np.diff(p) <= 0).all()
    assert p[-1] < 0.05
    assert p[0] == 1


def test_later_clusters_change_no_earlier_look():
    sums = np.random.default_rng(3).integers(-1, 3, 100)
    looks = look_sizes(100, 10)
    whole = anytime_p(sums, looks, 100, ladder(3))
    for k in range(1, 10):
        assert np.array_equal(anytime_p(sums[: looks[k - 1]], looks[:k], 100, ladder(3)), whole[:k])


def test_the_decisions_of_graded_scores_do_not_depend_on_their_scale():
    draw = np.random.default_rng(4)
    for _ in range(10):
        sums = draw.normal(0.06, 0.3, 60)
        one, other = (anytime_p(lattice(sums * scale, 6), look_sizes(60, 10), 60, ladder(2)) for scale in (1, 1e-3))
        assert np.array_equal(one, other)
    assert lattice([0, 0, -0.5, 0.25, 0.0124, 0], 2).tolist() == [0, 0, -20, 10, 0, 0]
    assert lattice([0.0, 0.0], 1).tolist() == [0, 0]


def test_the_boundaries_of_z_are_the_published_ones():
    expected = [3.89, 3.56, 3.38, 3.24, 3.13, 3.03, 2.93, 2.87, 2.79, 2.73]
    expected += [2.66, 2.60, 2.55, 2.49, 2.44, 2.40, 2.35, 2.30, 2.27, 2.21]
    assert np.allclose(z_boundaries(tuple(k / 20 for k in range(1, 21)), 0.05), expected, atol=0.006)


def test_the_repeated_interval_solves_its_equation():
    low, high = repeated_interval([1] * 30 + [-1] * 10 + [0] * 160, [1] * 200, 2.5)
    assert (round(low, 4), round(high, 4)) == (0.0217, 0.1783)
    draw = np.random.default_rng(5)
    sizes, c = draw.integers(1, 6, 40), 2.3
    sums = draw.binomial(sizes, 0.6) - draw.binomial(sizes, 0.3).astype(float)
    for end in repeated_interval(sums, sizes, c):
        assert abs(np.sum(sums - end * sizes)) == pytest.approx(c * np.sqrt(np.sum((sums - end * sizes) ** 2)))
    assert repeated_interval([1] * 9 + [0] * 90, [1] * 99, 2.5) == (-1, 1), "too few clusters differ"


def test_predictive_power():
    assert predictive_power(1, 0.3, 0.05 / 8) == pytest.approx(0.2774, abs=5e-5)
    assert predictive_power(-1, 0.3, 0.05 / 8) == predictive_power(1, 0.3, 0.05 / 8)


def test_holm_decides_at_the_thresholds_of_the_ladder():
    levels = ladder(5)
    p = [levels[0], 0.05 / 4, 0.05 / 3, 1, 1]
    assert holm_decided(p, 5).tolist() == [True, True, True, False, False]
    assert holm_decided([0.05 / 4, 1, 1, 1, 1], 5).tolist() == [False] * 5
    for m in (1, 3, 7, 49, 111):
        assert holm_decided([ladder(m)[0]], m).all(), "the level of the ladder equals the threshold bit for bit"


def test_families_of_equal_arms_are_rarely_decided_at_any_look_and_mcnemar_at_each_look_often():
    draw, alpha, runs, planned = np.random.default_rng(6), 0.05, 800, 200
    looks, levels = look_sizes(planned, 20), ladder(3, alpha)
    false_walk = false_mcnemar = 0
    for _ in range(runs):
        sums = draw.choice([-1, 0, 1], (3, planned), p=[0.1, 0.8, 0.1])
        p = [anytime_p(one, looks, planned, levels)[-1] for one in sums]  # p never rises: the last look has the least
        false_walk += bool(holm_decided(p, 3, alpha).any())
        losses, gains = (np.cumsum(sums[0] == sign)[[n - 1 for n in looks]] for sign in (-1, 1))
        false_mcnemar += any(mcnemar_p(int(b), int(c)) <= alpha for b, c in zip(losses, gains, strict=True))
    spread = np.sqrt(alpha * (1 - alpha) / runs)
    assert false_walk / runs <= alpha + 3 * spread
    assert false_walk / runs > 0.015, "the level is used"
    assert false_mcnemar / runs > 0.1, "ordinary p-values at each look are not valid"


def test_the_zero_mean_p_keeps_its_level_where_the_signs_are_skewed():
    draw, runs = np.random.default_rng(7), 200
    x = draw.choice([1, -9], (runs, 200), p=[0.9, 0.1]) / 9  # mean 0: nine small gains to one large loss
    looks, levels = look_sizes(200, 20), [0.05]
    assert np.mean([zero_mean_p(row)[-1] <= 0.05 for row in x]) <= 0.05
    assert np.mean([anytime_p(np.round(9 * row), looks, 200, levels)[-1] <= 0.05 for row in x]) > 0.1
    gain = draw.choice([1.0, 0, -1], (50, 300), p=[0.35, 0.5, 0.15])
    assert np.mean([zero_mean_p(row)[-1] <= 0.05 for row in gain]) > 0.8


def test_without_enough_differences_the_repeated_interval_is_everything():
    ones = np.ones(20)
    assert repeated_interval(ones, ones, 100.0) == (-1.0, 1.0), "no mean is left out"
    assert repeated_interval(ones, ones, np.inf) == (-1.0, 1.0)
    assert repeated_interval(np.r_[np.ones(9), np.zeros(11)], ones, 2.0) == (-1.0, 1.0)
    low, high = repeated_interval(np.r_[np.ones(10), np.zeros(10)], ones, 2.0)
    assert -1 < low < 0.5 < high < 1


def test_the_repeated_interval_has_the_means_whose_standardized_sum_is_below_the_boundary():
    draw = np.random.default_rng(3)
    sizes = draw.integers(1, 5, 60).astype(float)
    sums = draw.normal(0.2, 0.4, 60) * sizes
    for end in repeated_interval(sums, sizes, 2.5):
        rest = sums - end * sizes
        assert abs(rest.sum()) / np.sqrt(np.sum(rest**2)) == pytest.approx(2.5)
