"""The interval of a right/wrong difference against textbook formulas, and its agreement with the exact test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from experiments.stats.intervals import wilson
from experiments.stats.paired_proportions import _Direction, paired_proportions_test
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.significance import mcnemar_p

NUMBERS = {"deadline": None, "derandomize": True}


def differences(falls, rises, same):
    return np.repeat([-1.0, 1.0, 0.0], [falls, rises, same])


@pytest.mark.parametrize(("falls", "rises"), [(0, 3), (2, 9), (25, 10), (130, 170)])
def test_the_direction_has_clopper_and_pearsons_bounds(falls, rises):
    exact = binomtest(rises, rises + falls).proportion_ci(0.95, "exact").low
    (bound, _) = _Direction(differences(falls, rises, 40), mcnemar_p(falls, rises) <= 0.05).bounds(
        np.array([0.025, 0.5])
    )
    assert bound == pytest.approx(2 * exact - 1, abs=1e-6)


def test_the_bounds_have_the_tail_of_flips_of_whole_clusters():
    sums = np.array([3.0, -1, 2, 0, 1, 3, -2, 1])
    direction = _Direction(sums, is_significant=False)
    (bound, _) = direction.bounds(np.array([0.025, 0.5]))
    pi, sizes = (1 + bound) / 2, np.abs(sums[sums != 0])
    tail = 0.0
    for signs in np.ndindex(*(2,) * len(sizes)):
        chance = np.prod([pi if sign else 1 - pi for sign in signs])
        tail += chance * (np.dot(2 * np.array(signs) - 1, sizes) >= sums.sum())
    assert tail == pytest.approx(0.025, abs=1e-6)


def test_without_discordant_pairs_the_ends_are_wilsons_bound_of_0():
    test = paired_proportions_test(np.zeros(50), np.ones(50))
    assert test == pytest.approx((1, -wilson(0, 50)[1], wilson(0, 50)[1]))


def test_many_pairs_give_the_normal_interval_of_paired_shares():
    d = differences(150, 250, 1600)
    test = paired_proportions_test(d, np.ones(2000))
    half = 1.96 * d.std() / np.sqrt(2000)
    assert (test.low, test.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.002)


def test_swapped_arms_have_the_mirrored_interval():
    sums, sizes = np.array([2.0, -1, 3, 0, 1, 2]), np.array([3.0, 2, 4, 1, 1, 5])
    one, other = paired_proportions_test(sums, sizes), paired_proportions_test(-sums, sizes)
    assert (one.p, one.low, one.high) == pytest.approx((other.p, -other.high, -other.low))


def agrees(result, level=0.95):
    """p at most 1 - level exactly if 0 is outside the closed interval, and the difference is inside."""
    assert result.low <= result.difference <= result.high
    assert (result.p <= 1 - level) == (not result.low <= 0 <= result.high)


@settings(max_examples=300, **NUMBERS)
@given(st.integers(0, 90), st.integers(0, 90), st.integers(0, 600), st.sampled_from([0.9, 0.95, 0.99]))
def test_mcnemars_p_and_its_interval_never_contradict_each_other(falls, rises, same, level):
    d = differences(falls, rises, same)
    if len(d):
        agrees(paired_test(Pairs((d < 0) * 1.0, (d > 0) * 1.0, np.arange(len(d))), level), level)


scores = st.sampled_from([0.0, 1.0])
graded = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]), st.floats(0, 1))


@settings(max_examples=300, **NUMBERS)
@given(st.data(), st.integers(1, 40), st.booleans(), st.integers(1, 3), st.floats(0, 0.6))
def test_p_and_interval_agree_with_clusters_and_seeds(data, clusters, is_binary, seeds, lift):
    """Clusters of unequal sizes under several seeds; the arm is often right where the reference is wrong."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=clusters, max_size=clusters))
    own = np.tile(np.repeat(np.arange(clusters), sizes), seeds)
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    cell = scores if is_binary else graded
    values = np.array(data.draw(st.lists(cell, min_size=6, max_size=6)))
    reference, arm = (values[draw.integers(0, 6, len(own))] for _ in range(2))
    arm = np.where(draw.random(len(own)) < lift, values.max(), arm)
    agrees(paired_test(Pairs(reference, arm, own, is_graded=not is_binary)))


@pytest.mark.parametrize("value", [1.0, 0.3, 0.01, -0.2])
@pytest.mark.parametrize("clusters", [1, 3, 4, 5, 6, 8, 30])
def test_equal_differences_agree_too(value, clusters):
    same = np.full(clusters, value)
    agrees(paired_test(Pairs(np.zeros(clusters), same, np.arange(clusters), is_graded=True)))


@pytest.mark.parametrize("clusters", [8, 20, 50])
@pytest.mark.parametrize(("share", "difference"), [(0.05, 0.03), (0.2, 0.1), (0.4, 0.3)])
@pytest.mark.parametrize("size", ["one", "equal", "unequal"])
def test_the_interval_covers_the_difference(clusters, share, difference, size):
    draw, hit, runs = np.random.default_rng(clusters), 0, 300
    for _ in range(runs):
        sizes = {"one": 1, "equal": 3, "unequal": draw.integers(1, 9, clusters)}[size]
        own = np.repeat(np.arange(clusters), sizes)
        whole, part = (
            draw.choice([1.0, -1.0, 0.0], n, p=[(share + difference) / 2, (share - difference) / 2, 1 - share])
            for n in (clusters, len(own))
        )
        d = np.where(draw.random(len(own)) < 0.5, whole[own], part)
        test = paired_proportions_test(np.bincount(own, weights=d), np.bincount(own).astype(float))
        hit += test.low <= difference <= test.high
    assert hit / runs > 0.92


def test_masses_far_from_the_mean_may_be_left_out(monkeypatch):
    rng = np.random.default_rng(0)
    sums = rng.choice([0.0, 1, 2, 3], 1500) * rng.choice([-1, 1], 1500, p=[0.47, 0.53])
    tails = []
    for reach in (10.0, 1e9):
        monkeypatch.setattr("experiments.stats.paired_proportions.REACH", reach)
        direction = _Direction(sums, is_significant=False)
        assert (direction._length == direction.total + 1) is (reach > 10)
        tails.append([direction.tail(log_odds) for log_odds in (-40, -3, -0.5, -0.05, 0, 0.05, 0.5, 3, 40)])
    assert tails[0] == pytest.approx(tails[1], abs=1e-13)


@pytest.mark.parametrize(("rises", "falls"), [(15, 5), (14, 6), (10, 10), (3, 17), (20, 0), (0, 20)])
def test_the_direction_of_single_pairs_has_the_bounds_of_clopper_and_pearson(rises, falls):
    sums = np.repeat([1.0, -1.0], [rises, falls])
    tails = np.linspace(0.025, 0.5, 9)
    eta = _Direction(sums, is_significant=binomtest(rises, rises + falls).pvalue <= 0.05).bounds(tails)
    exact = [2 * beta.ppf(tail, rises, falls + 1) - 1 if rises else -1.0 for tail in tails]
    assert eta[[0, -1]] == pytest.approx([exact[0], exact[-1]], abs=1e-9)
    assert eta == pytest.approx(exact, abs=2e-3), "between the ends, by interpolation"
