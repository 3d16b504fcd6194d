import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from experiments.stats.intervals import (
    cluster_sums,
    clustered_variance,
    design_effect,
    estimate_mean,
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
    estimate = estimate_mean([1, 0, 1, 1, 0, 1, 1, 1])
    assert (estimate.low, estimate.high) == pytest.approx(wilson(6, 8))
    assert (estimate.samples, estimate.clusters) == (8, 8)


def test_copies_of_a_query_under_three_seeds_do_not_narrow_the_interval():
    once = np.random.default_rng(0).integers(0, 2, 200)
    alone = estimate_mean(once)
    copied = estimate_mean(np.tile(once, 3), np.tile(np.arange(200), 3))
    assert copied.mean == alone.mean
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.01)
    naive = estimate_mean(np.tile(once, 3))
    assert naive.high - naive.low < 0.6 * (alone.high - alone.low)
    assert (copied.samples, copied.clusters) == (600, 200)


def test_design_effect_is_the_ratio_to_a_cluster_robust_variance():
    draw = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 5)
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
    assert estimate_mean(np.ones(60), np.repeat(np.arange(20), 3)).low == pytest.approx(wilson(20, 20)[0])


def test_clustered_interval_covers_and_the_plain_one_does_not():
    draw, hit, plain = np.random.default_rng(2), 0, 0
    for _ in range(400):
        chance = draw.beta(1.0, 1.0, 50)
        clusters = np.repeat(np.arange(50), 6)
        x = draw.random(300) < chance[clusters]
        clustered, alone = estimate_mean(x, clusters), estimate_mean(x)
        hit += clustered.low <= 0.5 <= clustered.high
        plain += alone.low <= 0.5 <= alone.high
    assert hit / 400 > 0.92
    assert plain / 400 < 0.85


@pytest.mark.parametrize("count", [8, 30, 60, 99, 100, 400])
def test_values_outside_0_to_1_have_students_interval_and_that_of_z_from_100_clusters_on(count):
    x = np.random.default_rng(3).normal(3, 2, count)
    estimate = estimate_mean(x)
    law = stats.t(count - 1, x.mean(), stats.sem(x)) if count < 100 else stats.norm(x.mean(), stats.sem(x))
    expected = law.interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_the_variance_over_clusters_is_that_of_leaving_out_each():
    draw = np.random.default_rng(7)
    sizes = draw.integers(1, 9, 12)
    x, own = draw.random(sizes.sum()), np.repeat(np.arange(12), sizes)
    means = [x[own != c].mean() for c in range(12)]
    jackknife = 11 / 12 * sum((mean - x.mean()) ** 2 for mean in means)
    assert clustered_variance(*cluster_sums(x, own)) == pytest.approx(jackknife)


def test_graded_and_right_wrong_scores_have_one_interval_without_a_jump():
    x = np.random.default_rng(8).random(40) < 0.8
    whole, nearly = estimate_mean(x * 1.0, np.arange(40) // 2), estimate_mean(x * (1 - 1e-9), np.arange(40) // 2)
    assert (whole.low, whole.high) == pytest.approx((nearly.low, nearly.high), abs=0.005)
    widths = []
    for count in range(80, 120):  # no step at MANY_CLUSTERS or at any other number
        estimate = estimate_mean(np.tile([0.1, 0.5, 0.3, 0.8], 30)[:count])
        widths.append((estimate.high - estimate.low) * np.sqrt(count))
    assert np.abs(np.diff(widths) / widths[1:]).max() < 0.03


@pytest.mark.parametrize("clusters", [6, 8, 12, 20])
@pytest.mark.parametrize("kind", ["right/wrong", "graded", "unequal"])
def test_the_interval_covers_at_few_clusters(clusters, kind):
    draw, hit, runs = np.random.default_rng(clusters), 0, 500
    for _ in range(runs):
        own = np.repeat(np.arange(clusters), draw.integers(1, 8, clusters) if kind == "unequal" else 5)
        chance = draw.beta(3, 2, clusters)[own]
        x = draw.beta(3, 2, len(own)) * 0.5 + chance * 0.5 if kind == "graded" else draw.random(len(own)) < chance
        estimate = estimate_mean(x, own)
        hit += estimate.low <= 0.6 <= estimate.high
    assert hit / runs > 0.93


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_an_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match="finite"):
        estimate_mean(values)


def test_as_many_clusters_as_values_are_needed():
    with pytest.raises(ValueError, match="each value needs a cluster"):
        estimate_mean([0, 1], [1])


def test_equal_graded_scores_have_an_interval_from_the_number_of_clusters():
    estimate = estimate_mean([0.25] * 40, np.arange(40) // 2)
    z2 = 1.959963984540054**2
    assert (estimate.low, estimate.high) == pytest.approx((5 / (20 + z2), (5 + z2) / (20 + z2)))
    assert (estimate.mean, estimate.samples, estimate.clusters) == (0.25, 40, 20)
    equal = estimate_mean([3.0, 3.0])  # no scores in [0, 1], whose range is not known
    assert (equal.low, equal.high) == (3, 3)
