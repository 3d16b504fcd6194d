"""The rows of a statistic give the statistic itself, on the samples and on any resample, and its interval."""

import copy

import numpy as np
import pytest

from experiments.stats.intervals import estimate_mean
from icl.metrics.base import ScoredSample
from icl.metrics.classification import roc_auc
from icl.metrics.run_level import (
    RunLevelMetric,
    mean,
    mean_over_groups,
    on_scored_samples,
    ratio,
    ratio_over_groups,
    run_statistic,
)
from icl.parameter_docs import parameter_docs
from icl.registry import build, entries, resolve

RNG = np.random.default_rng(0)


def total(parts, times=None):
    """The statistic of the samples, each as often as `times` says."""
    sums = run_statistic(parts)
    weights = np.ones(len(sums.counted)) if times is None else times
    return float(sums.value(np.asarray(weights[None] @ sums.rows))[0])


def run_metrics():
    """Every metric of a whole run that the packages have, except for those with required parameters."""
    required = {name: parameter_docs(resolve("metric", name)) for name in entries("metric")}
    built = {n: build("metric", n) for n, docs in required.items() if not any(one.required for one in docs)}
    return [name for name, metric in built.items() if isinstance(metric, RunLevelMetric)]


def cell(size=24, failed=()):
    """Samples that every metric of a whole run has something to say of: groups of four with all their marks."""
    samples = []
    for i in range(size):
        gold = RNG.choice(["yes", "no"])
        mode = ("text", "image", "recognize", "image")[i % 4]
        meta = {"caption": i % 2, "image": i // 2 % 2, "category": f"c{i // 8}", "mode": mode}
        gold = ("yes", "no", "no", "yes")[i % 4] if i // 4 % 2 else str(gold)
        score = None if i in failed else float(RNG.integers(0, 2))
        answer = "yes" if score else "no"
        samples.append(ScoredSample(f"q{i}", score, f"g{i // 4}", answer, (gold,), ("yes", "no"), meta))
    return samples


@pytest.mark.parametrize("name", run_metrics())
@pytest.mark.parametrize("failed", [(), (1, 6, 7)])
def test_the_rows_of_every_metric_give_the_mean_of_its_numbers(name, failed):
    metric = build("metric", {"name": name})
    statistic = run_statistic(metric.run_level(cell(failed=failed)))
    assert statistic.rows.shape[0] == len(statistic.counted) == 24
    if statistic.counted.any():
        assert np.nanmean(statistic.numbers()) == pytest.approx(total(statistic), nan_ok=True)


def test_there_are_such_metrics():
    assert {"f1", "auc", "cider", "mme", "group_accuracy", "chair_corpus"} <= set(run_metrics())


def test_the_rows_give_the_statistic_of_samples_drawn_anew():
    gold, scores = RNG.random(40) < 0.4, RNG.integers(0, 6, 40) / 6.0
    predicted = scores > 0.5
    times = np.bincount(RNG.integers(0, 40, 40), minlength=40)
    again = np.repeat(np.arange(40), times)
    f1 = ratio(2.0 * (predicted & gold), 1.0 * predicted + gold)
    assert total(f1, times) == pytest.approx(
        2 * np.sum(predicted[again] & gold[again]) / (predicted[again].sum() + gold[again].sum())
    )
    above, below = scores[again][gold[again]][:, None], scores[again][~gold[again]][None]
    assert total(roc_auc(scores, gold), times) == pytest.approx(np.mean((above > below) + 0.5 * (above == below)))
    assert total(mean(list(scores)), times) == pytest.approx(scores[again].mean())


def test_the_least_and_the_most_move_an_area_as_far_as_one_sample_of_the_smaller_class_can():
    scores, gold = np.array([0.1, 0.4, 0.4, 0.8, 0.9]), np.array([False, False, True, True, False])
    for positive in (gold, ~gold):
        sums = run_statistic(roc_auc(scores, positive))
        rows = np.asarray(sums.rows.sum(axis=0)).ravel()
        fewer = positive if positive.sum() == 2 else ~positive
        assert list(sums.informative) == list(fewer)
        for end, one in ((sums.worst, -1.0), (sums.best, 2.0)):
            place = one if positive.sum() == 2 else 1 - one
            grown = roc_auc(np.append(scores, place), np.append(positive, positive.sum() == 2))
            assert float(sums.value(rows + end)) == pytest.approx(grown.statistic)


def test_what_one_sample_adds_at_worst_and_at_best_is_a_usual_one_within_the_bounds_of_its_kind():
    sums = run_statistic(ratio([1.0, 2.0, 0.0], [2.0, 4.0, 0.0]))  # what divides is 3 where there is any
    assert (sums.worst.tolist(), sums.best.tolist(), sums.is_proportion) == ([0, 3], [3, 3], True)
    assert not run_statistic(ratio([3.0, 1.0], [2.0, 2.0])).is_proportion
    assert not run_statistic(ratio([-1.0, 1.0], [2.0, 2.0])).is_proportion
    for plain, least, largest in (([0.2, 0.8], 0.0, 1.0), ([3.0, 5.0], 0.0, 5.0), ([-2.0, None, -4.0], -4.0, 1.0)):
        sums = run_statistic(plain)
        assert (sums.worst.tolist(), sums.best.tolist()) == ([least, 1], [largest, 1])


def test_samples_without_a_score_add_nothing():
    samples = [ScoredSample("a", 1.0), ScoredSample("b", None), ScoredSample("c", 0.0)]
    parts = on_scored_samples(samples, lambda scored: ratio([1.0 for _ in scored], [2.0 for _ in scored]))
    sums = run_statistic(parts)
    assert sums.rows[1].tolist() == [0, 0]
    assert list(sums.informative) == list(sums.counted) == [True, False, True]
    assert total(parts) == 0.5


def test_a_group_has_one_row():
    samples = [ScoredSample(str(i), float(i != 2), f"g{i // 2}") for i in range(6)]
    parts = mean_over_groups(samples, lambda members: float(all(m.score == 1 for m in members)))
    sums = run_statistic(parts)
    assert sums.rows[:, 1].tolist() == [1, 0, 1, 0, 1, 0]
    assert sums.informative.sum() == 3
    assert total(parts) == pytest.approx(2 / 3)


def test_run_level_values_can_be_copied():
    parts = copy.deepcopy(roc_auc([0.1, 0.9, 0.4], [False, True, True]))
    assert total(parts) == 1
    assert parts.numbers().tolist() == pytest.approx([1, 1, 1])


def f1(predicted, gold):
    return 2 * np.sum(predicted & gold) / (np.sum(predicted) + np.sum(gold))


def auc(scores, positive):
    above, below = scores[positive][:, None], scores[~positive][None]
    return float(np.mean((above > below) + 0.5 * (above == below)))


def test_pseudo_values_are_those_of_the_statistic_without_each_sample():
    gold, predicted = np.arange(12) % 3 == 0, np.arange(12) % 4 < 2
    parts = ratio(2.0 * (predicted & gold), predicted.astype(float) + gold)
    left = np.array([f1(np.delete(predicted, i), np.delete(gold, i)) for i in range(12)])
    numbers = parts.numbers()
    adding = int((predicted | gold).sum())
    assert numbers - numbers.mean() == pytest.approx(12 / adding * (adding - 1) * (left.mean() - left))
    alone = ratio([1.0, 0.0], [1.0, 0.0])  # without the first sample it is undefined
    assert alone.numbers().tolist() == [1, 1]


def test_the_parts_average_to_the_statistic_itself():
    gold, predicted = RNG.random(60) < 0.4, RNG.random(60) < 0.5
    parts = ratio(2.0 * (predicted & gold), predicted.astype(float) + gold)
    assert np.mean(parts.numbers()) == pytest.approx(parts.statistic) == f1(predicted, gold)
    scores = RNG.integers(0, 5, 60) / 5
    area = roc_auc(scores, gold)
    assert np.mean(area.numbers()) == pytest.approx(area.statistic) == pytest.approx(auc(scores, gold))


def test_an_area_without_one_class_and_a_ratio_of_nothing_are_none():
    assert np.isnan(roc_auc([0.1, 0.2], [True, True]).numbers()).all()
    assert np.isnan(ratio([0, 0], [0, 0]).numbers()).all()


@pytest.mark.parametrize("statistic", [f1, auc])
def test_the_interval_is_that_of_a_bootstrap_of_the_statistic_over_clusters(statistic):
    clusters = np.repeat(np.arange(150), 2)
    gold = RNG.random(300) < 0.4
    scores = 0.7 * gold + RNG.random(150)[clusters] + 0.3 * RNG.random(300)
    predicted = scores > 0.9
    values = predicted if statistic is f1 else scores
    counts = 2.0 * (predicted & gold), predicted.astype(float) + gold
    parts = ratio(*counts) if statistic is f1 else roc_auc(scores, gold)
    interval = estimate_mean(parts.numbers(), clusters)
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
    assert parts.statistic == pytest.approx(2 / 3)


def test_a_group_with_a_failed_sample_has_no_part():
    rows = samples(("a", 1.0), ("a", 1.0), ("b", None), ("b", 1.0))
    parts = mean_over_groups(rows, lambda members: float(all(m.score == 1 for m in members)))
    assert parts.numbers().tolist() == pytest.approx([1.0, 1.0, np.nan, np.nan], nan_ok=True)


def test_a_ratio_of_groups_divides_the_sums():
    rows = samples(("a", 1.0), ("b", 1.0), ("b", 0.0), ("c", 0.0))
    parts = ratio_over_groups(rows, lambda members: (sum(m.score for m in members), len(members)))
    assert parts.statistic == pytest.approx(2 / 4)
