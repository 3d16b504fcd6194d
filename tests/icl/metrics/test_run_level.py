"""Tests of run-level statistics as one number for each sample: an exact mean, and its interval."""

import numpy as np
import pytest

from experiments.stats.intervals import estimate_mean
from icl.metrics.base import ScoredSample
from icl.metrics.run_level import mean_over_groups, ratio, ratio_over_groups, roc_auc

RNG = np.random.default_rng(0)


def f1(predicted, gold):
    return 2 * np.sum(predicted & gold) / (np.sum(predicted) + np.sum(gold))


def auc(scores, positive):
    above, below = scores[positive][:, None], scores[~positive][None]
    return float(np.mean((above > below) + 0.5 * (above == below)))


def test_the_parts_average_to_the_statistic_itself():
    gold, predicted = RNG.random(60) < 0.4, RNG.random(60) < 0.5
    parts = ratio(2.0 * (predicted & gold), predicted.astype(float) + gold)
    assert np.mean(parts) == pytest.approx(f1(predicted, gold))
    scores = RNG.integers(0, 5, 60) / 5
    assert np.mean(roc_auc(scores, gold)) == pytest.approx(auc(scores, gold))


def test_an_area_without_one_class_and_a_ratio_of_nothing_are_none():
    assert roc_auc([0.1, 0.2], [True, True]) == [None, None]
    assert ratio([0, 0], [0, 0]) == [None, None]


@pytest.mark.parametrize("statistic", [f1, auc])
def test_the_interval_is_that_of_a_bootstrap_of_the_statistic_over_clusters(statistic):
    clusters = np.repeat(np.arange(150), 2)
    gold = RNG.random(300) < 0.4
    scores = 0.7 * gold + RNG.random(150)[clusters] + 0.3 * RNG.random(300)
    predicted = scores > 0.9
    values = predicted if statistic is f1 else scores
    counts = 2.0 * (predicted & gold), predicted.astype(float) + gold
    parts = ratio(*counts) if statistic is f1 else roc_auc(scores, gold)
    interval = estimate_mean(np.asarray(parts, dtype=float), clusters)
    resampled = []
    for _ in range(1000):
        chosen = RNG.integers(0, 150, 150)
        rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
        resampled.append(statistic(values[rows], gold[rows]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.15)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.02)


def samples(*groups):
    """(group, score) of each."""
    return [ScoredSample(f"q{i}", score, group) for i, (group, score) in enumerate(groups)]


def test_groups_count_alike_whatever_their_size():
    rows = samples(("a", 1.0), ("b", 0.0), ("b", 1.0), ("b", 1.0), (None, 1.0))
    parts = mean_over_groups(rows, lambda members: float(all(m.score == 1 for m in members)))
    assert np.mean(parts) == pytest.approx(2 / 3)


def test_a_group_with_a_failed_sample_has_no_part():
    rows = samples(("a", 1.0), ("a", 1.0), ("b", None), ("b", 1.0))
    parts = mean_over_groups(rows, lambda members: float(all(m.score == 1 for m in members)))
    assert parts == [1.0, 1.0, None, None]


def test_a_ratio_of_groups_divides_the_sums():
    rows = samples(("a", 1.0), ("b", 1.0), ("b", 0.0), ("c", 0.0))
    parts = ratio_over_groups(rows, lambda members: (sum(m.score for m in members), len(members)))
    assert np.mean(parts) == pytest.approx(2 / 4)
