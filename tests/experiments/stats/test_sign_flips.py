"""Sign flips of clusters: an exact test, and an interval that agrees with it."""

from itertools import product

import numpy as np
import pytest

from experiments.stats import sign_flips
from experiments.stats.intervals import cluster_codes, cluster_sums
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sign_flips import interval_of_equal_clusters, sign_flip_test
from experiments.stats.significance import exact_sign_flip_p


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
