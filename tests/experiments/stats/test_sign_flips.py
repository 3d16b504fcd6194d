"""Sign flips of clusters: an exact test, and an interval that agrees with it."""

import math
import os
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from experiments.stats import sign_flips
from experiments.stats.intervals import cluster_codes, cluster_sums, wilson
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sign_flips import (
    _Direction,
    exactly_summable,
    interval_of_equal_clusters,
    paired_proportions_test,
    sign_flip_test,
    subsets,
)
from experiments.stats.significance import exact_sign_flip_p, mcnemar_p


def brute_p(sums, sizes, mean):
    """The definition: all flips of the clusters' sums of values minus `mean`."""
    rest = np.asarray(sums) - mean * np.asarray(sizes)
    flips = [abs(np.dot(signs, rest)) for signs in product([-1, 1], repeat=len(rest))]
    return np.mean([one >= abs(rest.sum()) - 1e-12 for one in flips])


def random_differences(seed, clusters):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, clusters).astype(float)
    return draw.normal(0.1, 0.3, clusters) * sizes, sizes


def test_p_is_the_share_of_flips_that_are_as_extreme():
    for seed in range(4):
        sums, sizes = random_differences(seed, 8)
        assert sign_flip_test(sums, sizes).p == pytest.approx(brute_p(sums, sizes, 0))


def test_whole_differences_give_the_exact_test():
    d = np.random.default_rng(0).integers(-1, 2, 11)
    assert sign_flip_test(d.astype(float), np.ones(11)).p == pytest.approx(exact_sign_flip_p(d))


@pytest.mark.parametrize("clusters", [6, 7, 9])
def test_the_interval_contains_exactly_the_means_that_are_not_rejected(clusters):
    sums, sizes = random_differences(clusters, clusters)
    _, low, high = sign_flip_test(sums, sizes, lowest=-9, highest=9)
    for end, outward in ((low, -1e-6), (high, 1e-6)):
        assert brute_p(sums, sizes, end - outward) > 0.05
        assert brute_p(sums, sizes, end + outward) <= 0.05


@pytest.mark.parametrize("clusters", [6, 12, 20])
def test_the_interval_excludes_zero_exactly_if_p_is_small(clusters):
    draw, outcomes = np.random.default_rng(1), set()
    for _ in range(60):
        d = np.round(draw.normal(0.08, 0.16, clusters), 2)  # ties too
        result = paired_test(Pairs(np.full(clusters, 0.5), 0.5 + d, np.arange(clusters)))
        assert (result.low <= 0 <= result.high) == (result.p > 0.05)
        outcomes.add(result.p > 0.05)
    assert outcomes == {True, False}


def test_five_clusters_exclude_no_mean():
    result = paired_test(Pairs(np.zeros(5), np.array([0.9, 0.8, 0.9, 0.7, 0.8]), np.arange(5), is_graded=True))
    assert result.p == pytest.approx(2 / 32)
    assert (result.low, result.high) == (-1, 1)


def test_subsets_of_many_clusters_are_sampled_with_the_full_set():
    sums = np.random.default_rng(2).normal(0.1, 1, 13)
    assert sign_flip_test(sums, np.ones(13)).p == pytest.approx(brute_p(sums, np.ones(13), 0), abs=0.012)
    assert sign_flip_test(np.arange(1.0, 41), np.ones(40)).p == pytest.approx(1 / (sign_flips.SAMPLED_SUBSETS + 1))


def test_results_do_not_depend_on_the_piece_size(monkeypatch):
    sums, sizes = random_differences(3, 30)
    first = sign_flip_test(sums, sizes)
    sign_flips._cached_subsets.cache_clear()
    monkeypatch.setattr(sign_flips, "MAX_ENTRIES", 30 * 70)
    assert sign_flip_test(sums, sizes) == first
    sign_flips._cached_subsets.cache_clear()


@pytest.mark.parametrize(("clusters", "sizes"), [(6, "one"), (12, "one"), (12, "unequal"), (20, "unequal")])
def test_a_graded_difference_keeps_its_level_at_few_clusters(clusters, sizes):
    draw = np.random.default_rng(1)
    runs, low = 1_500, 0
    for _ in range(runs):
        own = np.repeat(np.arange(clusters), 1 if sizes == "one" else draw.geometric(0.3, clusters))
        whole, part = draw.normal(0, 0.2, clusters)[own], draw.normal(0, 0.2, len(own))
        sums, counts = cluster_sums(np.where(draw.random(len(own)) < 0.5, whole, part), cluster_codes(own))
        low += sign_flip_test(sums, counts).p <= 0.05
    assert low / runs < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / runs)


def test_with_few_clusters_the_interval_ends_at_the_largest_possible_difference():
    """Of three clusters no flip is rare, so every mean is possible: by default those of scores in [0, 1]."""
    sums = np.array([0.5, 0.4, 0.6])
    assert sign_flip_test(sums, np.ones(3))[1:] == (-1.0, 1.0)
    assert sign_flip_test(sums, np.ones(3), lowest=-3.0, highest=2.0)[1:] == (-3.0, 2.0)


@pytest.mark.parametrize("clusters", [4, 5, 6, 7])
@pytest.mark.parametrize("p", [0.04, 0.05, 0.06])
@pytest.mark.parametrize("mean", [0.2, -0.2])
def test_the_interval_of_equal_clusters_is_on_the_side_of_a_p_of_sampled_flips(clusters, p, mean):
    low, high = interval_of_equal_clusters(mean, clusters, p, 0.95, (-1, 1))
    assert (low > 0 or high < 0) == (p <= 0.05)
    assert low <= mean <= high


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


SIZES = ("one", "equal", "unequal")
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


DESIGNS = list(product(enumerate((8, 20, 50)), enumerate(((0.05, 0.03), (0.2, 0.1), (0.4, 0.3))), enumerate(SIZES)))
"""Numbers of clusters, shares and sizes. A third of them has each pair, and `make nightly` runs them all."""
COVERED = [
    (clusters, *rates, size)
    for (i, clusters), (j, rates), (k, size) in DESIGNS
    if "ICL_NULL" in os.environ or (i + j + k) % 3 == 0
]


@pytest.mark.parametrize(("clusters", "share", "difference", "size"), COVERED)
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
        monkeypatch.setattr("experiments.stats.sign_flips.REACH", reach)
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
