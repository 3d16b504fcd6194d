"""The randomization test and the interval of two arms, compared with direct computations."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata

from experiments.stats import run_statistic_tests, sign_flips
from experiments.stats.run_statistic_tests import randomization_test
from experiments.stats.run_statistics import build_strata
from experiments.stats.sign_flips import sign_flip_test
from experiments.stats.significance import exact_sign_flip_p
from icl.metrics.run_level import ratio, roc_auc
from icl.metrics.sufficient_statistics import statistics_of

Z2 = 1.959963984540054**2


def f1(answers, positive):
    under = answers.sum() + positive.sum()
    return 2 * (answers & positive).sum() / under if under else np.nan


def auc(scores, positive):
    above, below = scores[positive][:, None], scores[~positive][None]
    return float(np.mean((above > below) + 0.5 * (above == below)))


def f1_parts(answers, positive):
    return ratio(2.0 * (answers & positive), 1.0 * answers + positive, (0, 1), (2, 2))


def strata(*cells, clusters=None):
    """cells: (parts of the reference, parts of the arm)."""
    sizes = np.cumsum([0, *(len(one) for one, _ in cells)])
    paired_cells = [
        (np.arange(a, b), statistics_of(one), statistics_of(other))
        for a, b, (one, other) in zip(sizes[:-1], sizes[1:], cells, strict=True)
    ]
    return build_strata(paired_cells, np.arange(sizes[-1]) if clusters is None else np.asarray(clusters))


def swap(*cells, clusters=None, **more):
    """The test of cells; each pair is its own cluster by default."""
    count = sum(len(one) for one, _ in cells)
    clusters = np.arange(count) if clusters is None else np.asarray(clusters)
    return randomization_test(strata(*cells, clusters=clusters), np.bincount(clusters).astype(float), **more)


def randomization_p(*cells, **more):
    return swap(*cells, **more).p


def run_statistic_interval(*cells, **more):
    result = swap(*cells, **more)
    return result.low, result.high


def test_binary_scores_give_the_exact_sign_flip_test():
    draw = np.random.default_rng(0)
    for size in (9, 12):
        a, b = draw.integers(0, 2, (2, size)).astype(float)
        clusters = np.arange(size) // 2
        ones = np.ones(size)
        p = randomization_p((ratio(a, ones), ratio(b, ones)), clusters=clusters)
        assert p == pytest.approx(exact_sign_flip_p(b - a, clusters))


def test_all_swaps_of_few_clusters_are_evaluated_on_the_f1_itself():
    positive = np.array([1, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    a = np.array([1, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    b = np.array([0, 1, 0, 1, 0, 1, 1, 0], dtype=bool)
    observed, extreme = abs(f1(b, positive) - f1(a, positive)), 0
    for chosen in itertools.product([False, True], repeat=8):
        swap = np.array(chosen)
        one, other = np.where(swap, b, a), np.where(swap, a, b)
        extreme += abs(f1(other, positive) - f1(one, positive)) >= observed - 1e-12
    assert randomization_p((f1_parts(a, positive), f1_parts(b, positive))) == pytest.approx(extreme / 2**8)


def test_swaps_of_many_clusters_are_sampled(monkeypatch):
    draw = np.random.default_rng(1)
    positive = draw.random(40) < 0.5
    a, b = positive ^ (np.arange(40) < 3), positive ^ (np.arange(40) > 29)
    made = f1_parts(a, positive), f1_parts(b, positive)
    sampled = randomization_p(made)
    monkeypatch.setattr(sign_flips, "MAX_ENUMERATED", 13)
    sign_flips._cached_subsets.cache_clear()
    assert (a != b).sum() == 13
    assert sampled == pytest.approx(randomization_p(made), abs=0.01)
    assert randomization_p(made) == randomization_p(made)


def test_an_area_is_tested_on_ranks_independent_of_the_scale():
    draw = np.random.default_rng(2)
    positive = np.arange(40) % 2 == 0
    a, b = draw.normal(size=40) + positive, draw.normal(size=40) + 2 * positive
    p = randomization_p((roc_auc(a, positive), roc_auc(b, positive)))
    assert p == randomization_p((roc_auc(a, positive), roc_auc(100 + np.exp(b), positive)))
    assert randomization_p((roc_auc(a, positive), roc_auc(a**3, positive))) == 1


def test_all_swaps_of_ranks_are_evaluated_on_the_area_itself():
    positive = np.array([1, 0, 1, 0, 1, 0, 0, 1], dtype=bool)
    a, b = np.array([2, 2, 3, 3, 1, 1, 3, 3.0]), np.array([6, 3, 12, 4, 6, 8, 2, 8.0])
    ranks = rankdata(a), rankdata(b)
    observed, extreme = abs(auc(b, positive) - auc(a, positive)), 0
    for chosen in itertools.product([False, True], repeat=8):
        one, other = (np.where(chosen, *pair) for pair in (ranks, ranks[::-1]))
        extreme += abs(auc(other, positive) - auc(one, positive)) >= observed - 1e-12
    assert randomization_p((roc_auc(a, positive), roc_auc(b, positive))) == pytest.approx(extreme / 2**8)
    assert extreme == 68


def test_the_interval_is_near_a_bootstrap_of_the_difference_itself():
    draw = np.random.default_rng(3)
    positive = draw.random(120) < 0.3
    a, b = (positive ^ (draw.random(120) < wrong) for wrong in (0.1, 0.2))
    x, y = draw.normal(size=120) + positive, draw.normal(size=120) + 2 * positive
    for parts, statistic, one, other in ((f1_parts, f1, a, b), (roc_auc, auc, x, y)):
        low, high = run_statistic_interval((parts(one, positive), parts(other, positive)), clusters=np.arange(120) // 2)
        sampled = []
        for _ in range(1500):
            rows = (2 * draw.integers(0, 60, 60)[:, None] + [0, 1]).ravel()
            sampled.append(statistic(other[rows], positive[rows]) - statistic(one[rows], positive[rows]))
        assert (low, high) == pytest.approx(tuple(np.quantile(sampled, [0.025, 0.975])), abs=0.03)


def test_equal_arms_have_an_interval_from_the_number_of_clusters():
    positive = np.arange(50) < 20
    same = f1_parts(positive, positive), f1_parts(positive, positive)
    assert randomization_p(same) == 1
    worst = 40 / (40 + Z2)
    assert run_statistic_interval(same) == pytest.approx((worst - 1, 1 - worst))
    pairs = ratio([1.0] * 30, [1.0] * 30), ratio([1.0] * 30, [1.0] * 30)
    assert run_statistic_interval(pairs, clusters=np.arange(30) // 3) == pytest.approx(
        (-Z2 / (10 + Z2), Z2 / (10 + Z2))
    )


def test_equal_arms_are_bounded_by_worst_and_best_clusters():
    positive, answers = np.arange(50) < 20, np.arange(50) < 15
    low = 30 / (35 + Z2) - (30 + 2 * Z2) / (35 + 2 * Z2)  # F1: a cluster of errors more in one, of hits in the other
    assert run_statistic_interval((f1_parts(answers, positive),) * 2) == pytest.approx((low, -low))


def test_an_arm_that_is_always_right_against_one_that_never_is_has_an_interval():
    ones = [1.0] * 20
    low, high = run_statistic_interval((ratio([0.0] * 20, ones), ratio(ones, ones)))
    assert high == 1
    assert low == pytest.approx(2 * 0.025 ** (1 / 20) - 1)


@pytest.mark.parametrize("count", [9, 80])
def test_test_and_interval_of_a_share_are_those_of_its_mean(count):
    draw = np.random.default_rng(4)
    a, b = draw.integers(0, 2, (2, count)).astype(float)
    ones = np.ones(count)
    ours = swap((ratio(a, ones), ratio(b, ones)))
    plain = sign_flip_test(b - a, ones)
    assert ours == pytest.approx(plain, abs=0 if (a != b).all() else 0.02)


def test_seeds_of_a_query_are_swapped_together():
    draw = np.random.default_rng(5)
    positive = np.arange(10) % 2 == 0
    a, b = positive ^ (draw.random(10) < 0.1), positive ^ (draw.random(10) < 0.6)
    cell = f1_parts(a, positive), f1_parts(b, positive)
    assert randomization_p(cell, cell, cell, clusters=np.tile(np.arange(10), 3)) == pytest.approx(randomization_p(cell))


@pytest.mark.parametrize("kind", ["f1", "area"])
def test_the_level_holds_at_the_end_of_the_scale(kind):
    """Two equivalent arms: p is at most .05 in at most .05 of the samples, even with few errors."""
    draw, p_values = np.random.default_rng(6), []
    for _ in range(300):
        positive = np.arange(30) % 2 == 0
        if kind == "f1":
            a, b = (f1_parts(positive ^ (draw.random(30) < 0.06), positive) for _ in range(2))
        else:
            a, b = (roc_auc(draw.normal(size=30) + 3 * positive, positive) for _ in range(2))
        p_values.append(randomization_p((a, b), samples=400))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.075
    assert np.mean(np.array(p_values) <= 0.2) <= 0.245


def test_a_swap_without_a_defined_score_counts_as_extreme():
    positive = np.array([True, False, False])
    a, b = np.array([True, False, False]), np.array([False, False, True])
    one, other = (ratio(1.0 * (answers & positive), 1.0 * answers) for answers in (a, b))  # precision
    # of 4 exchanges two leave an arm without any yes, and two show the 1 that was seen
    assert randomization_p((one, other)) == 1


def test_worst_and_best_clusters_have_the_mean_cluster_size():
    (stratum,) = strata((ratio([1, 1, 0, 0], [1, 1, 0, 0]), ratio([0, 0, 3, 0], [0, 0, 3, 3])), clusters=[0, 0, 1, 1])
    assert list(stratum.best) == [6, 6]  # two samples a cluster that have a say in either arm, the larger of the arms'
    assert list(stratum.worst) == [0, 6]


def test_all_swaps_are_used_up_to_the_limit_of_clusters():
    a, b, ones = np.array([1.0] * 9 + [0.0] * 3), np.array([0.0] * 9 + [1.0] * 3), np.ones(12)
    assert randomization_p((ratio(a, ones), ratio(b, ones))) == pytest.approx(exact_sign_flip_p(b - a))


def test_p_is_never_below_the_resolution_of_the_sample():
    positive = np.arange(80) % 2 == 0
    assert randomization_p((f1_parts(~positive, positive), f1_parts(positive, positive))) == 1 / 10_000
    assert randomization_p((roc_auc(-1.0 * positive, positive), roc_auc(1.0 * positive, positive))) == 1 / 2_001


def test_cells_are_weighted_by_their_pairs_in_test_and_interval():
    draw, ones = np.random.default_rng(7), np.ones(30)
    a, b = draw.integers(0, 2, (2, 40)).astype(float)
    clusters = np.r_[np.arange(10), np.arange(30)]
    cells = [(ratio(a[:10], ones[:10]), ratio(b[:10], ones[:10])), (ratio(a[10:], ones), ratio(b[10:], ones))]
    plain = sign_flip_test(*(np.bincount(clusters, weights=w) for w in (np.r_[b - a], np.ones(40))))
    assert swap(*cells, clusters=clusters) == pytest.approx(plain, abs=0.02)
    gain = ratio([0, 0], ones[:2]), ratio([1, 1], ones[:2])
    loss = ratio([1] * 3 + [0] * 5, ones[:8]), ratio([0] * 8, ones[:8])
    assert randomization_p(gain, loss) == pytest.approx(exact_sign_flip_p([1, 1, -1, -1, -1])) == 1
    equal = [(ratio(ones[:n], ones[:n]),) * 2 for n in (10, 30)]
    high = 0.25 * Z2 / (10 + Z2) + 0.75 * Z2 / (30 + Z2)
    assert run_statistic_interval(*equal) == pytest.approx((-high, high))


def test_the_interval_is_the_same_for_any_piece_size(monkeypatch):
    positive, draw = np.arange(30) % 2 == 0, np.random.default_rng(8)
    made = tuple(roc_auc(draw.normal(size=30) + positive, positive) for _ in range(2))
    first = swap(made)
    monkeypatch.setattr(run_statistic_tests, "MAX_ENTRIES", 7 * len(strata(made)[0].worst))
    assert swap(made) == first


def test_clusters_without_a_difference_leave_p_exact():
    a, b = np.r_[np.ones(7), np.zeros(93)], np.zeros(100)
    ones = np.ones(100)
    result = swap((ratio(a, ones), ratio(b, ones)))
    assert result.p == 2 / 2**7
    assert result.high < 0


def test_p_is_small_exactly_if_the_interval_leaves_out_0():
    draw, outcomes = np.random.default_rng(9), set()
    for _ in range(60):
        count = int(draw.integers(4, 40))
        positive = np.arange(count) % 2 == 0
        a, b = (positive ^ (draw.random(count) < wrong) for wrong in (0.05, 0.3))
        areas = tuple(roc_auc(draw.normal(size=count) + s * positive, positive) for s in (0.2, 1.5))
        for parts in ((f1_parts(a, positive), f1_parts(b, positive)), areas):
            result = swap(parts, samples=400)
            assert (result.p <= 0.05) == (not result.low <= 0 <= result.high)
            outcomes.add(result.p <= 0.05)
    assert outcomes == {True, False}
