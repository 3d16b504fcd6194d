import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from experiments.stats import intervals
from experiments.stats.intervals import (
    bootstrap_mean,
    design_effect,
    estimate_mean,
    estimate_proportion,
    resampled_means,
    wilson,
)


def test_wilson_gives_the_textbook_interval():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 7), (50, 100), (299, 300), (12, 12)])
def test_wilson_agrees_with_statsmodels(right, n):
    for level in (0.9, 0.95, 0.99):
        assert wilson(right, n, level) == pytest.approx(proportion_confint(right, n, 1 - level, "wilson"), abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_wilson_refuses_impossible_proportions(right, n):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(right, n)


def test_without_clusters_a_proportion_is_plain_wilson():
    estimate = estimate_proportion([1, 0, 1, 1, 0, 1, 1, 1])
    assert (estimate.low, estimate.high) == pytest.approx(wilson(6, 8))
    assert (estimate.samples, estimate.clusters) == (8, 8)


def test_copies_of_a_query_under_three_seeds_do_not_narrow_the_interval():
    once = np.random.default_rng(0).integers(0, 2, 200)
    alone = estimate_proportion(once)
    copied = estimate_proportion(np.tile(once, 3), np.tile(np.arange(200), 3))
    assert copied.mean == alone.mean
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.01)
    naive = estimate_proportion(np.tile(once, 3))
    assert naive.high - naive.low < 0.6 * (alone.high - alone.low)
    assert (copied.samples, copied.clusters) == (600, 200)


def test_design_effect_is_the_ratio_to_a_cluster_robust_variance():
    draw = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), draw.integers(1, 9, 40))
    x = (draw.random(len(clusters)) < 0.2 + 0.6 * draw.random(40)[clusters]).astype(float)
    robust = OLS(x, np.ones_like(x)).fit(cov_type="cluster", cov_kwds={"groups": clusters}).cov_params()[0, 0]
    plain = x.var() / (len(x) - 1)
    assert design_effect(x, clusters) == pytest.approx(robust / plain)
    assert design_effect(x, clusters) > 1.2


def test_design_effect_is_never_below_one():
    opposite = np.array([1, 0] * 20)
    assert design_effect(opposite, np.repeat(np.arange(20), 2)) == 1


def test_design_effect_of_equal_values_is_the_mean_size_of_a_cluster():
    assert design_effect(np.ones(3), np.array([0, 1, 2])) == 1
    assert design_effect(np.ones(4), np.array([0, 0, 1, 1])) == 2


def test_the_interval_of_all_right_answers_depends_on_the_number_of_clusters():
    assert estimate_proportion(np.ones(60), np.repeat(np.arange(20), 3)).low == pytest.approx(wilson(20, 20)[0])


def test_clustered_interval_covers_and_the_plain_one_does_not():
    draw, hit, plain = np.random.default_rng(2), 0, 0
    for _ in range(400):
        chance = draw.beta(1.0, 1.0, 50)
        clusters = np.repeat(np.arange(50), 6)
        x = draw.random(300) < chance[clusters]
        clustered, alone = estimate_proportion(x, clusters), estimate_proportion(x)
        hit += clustered.low <= 0.5 <= clustered.high
        plain += alone.low <= 0.5 <= alone.high
    assert hit / 400 > 0.92
    assert plain / 400 < 0.85


def test_bootstrap_agrees_with_scipy_without_clusters():
    x = np.random.default_rng(3).exponential(size=80)
    ours = bootstrap_mean(x)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(4))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert ours.mean == x.mean()


def test_bootstrap_resamples_whole_clusters():
    x, clusters = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0, 0, 1, 2])
    means = resampled_means(x, clusters, 20_000)
    possible = {}
    for draw in np.ndindex(3, 3, 3):
        taken = np.concatenate([x[clusters == c] for c in draw])
        possible[round(taken.mean(), 9)] = possible.get(round(taken.mean(), 9), 0) + 1 / 27
    values, counts = np.unique(means.round(9), return_counts=True)
    assert set(values) == set(possible)
    assert max(abs(counts / 20_000 - [possible[v] for v in values])) < 0.01


def test_bootstrap_is_equal_bit_for_bit_each_time_and_for_any_piece_size(monkeypatch):
    x, clusters = np.random.default_rng(5).random(90), np.arange(90) % 30
    first = resampled_means(x, clusters)
    assert np.array_equal(first, resampled_means(x, clusters))
    intervals._cached_counts.cache_clear()
    monkeypatch.setattr(intervals, "MAX_ENTRIES", 30 * 70)
    assert np.array_equal(first, resampled_means(x, clusters))
    intervals._cached_counts.cache_clear()


def test_graded_scores_use_the_bootstrap_and_binary_ones_wilson():
    assert estimate_mean([0, 1, 1]) == estimate_proportion([0, 1, 1])
    many = np.random.default_rng(6).random(30)
    assert estimate_mean(many) == bootstrap_mean(many)
    assert estimate_mean(many[:29]).low < bootstrap_mean(many[:29]).low


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_an_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match="finite"):
        estimate_mean(values)


def test_as_many_clusters_as_values_are_needed():
    with pytest.raises(ValueError, match="each value needs a cluster"):
        estimate_proportion([0, 1], [1])


def test_equal_graded_scores_have_an_interval_from_the_number_of_clusters():
    estimate = estimate_mean([0.25] * 40, np.arange(40) // 2)
    z2 = 1.959963984540054**2
    assert (estimate.low, estimate.high) == pytest.approx((5 / (20 + z2), (5 + z2) / (20 + z2)))
    assert (estimate.mean, estimate.samples, estimate.clusters) == (0.25, 40, 20)
    assert estimate_mean([3.0, 3.0]) == bootstrap_mean([3.0, 3.0])  # no score in [0, 1]
