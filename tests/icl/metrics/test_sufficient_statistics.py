"""The rows of a statistic give the statistic itself, on the samples and on any resample."""

import copy

import numpy as np
import pytest

from icl.metrics.base import RunLevelMetric, ScoredSample
from icl.metrics.run_level import mean, mean_over_groups, on_scored_samples, ratio, roc_auc
from icl.metrics.sufficient_statistics import statistics_of
from icl.parameter_docs import parameter_docs
from icl.registry import build, entries, resolve

RNG = np.random.default_rng(0)


def total(parts, times=None):
    """The statistic of the samples, each as often as `times` says."""
    sums = statistics_of(parts)
    weights = np.ones(len(parts)) if times is None else times
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
    parts = metric.run_level(cell(failed=failed))
    numbers = [part for part in parts if part is not None]
    if numbers:
        assert total(parts) == pytest.approx(np.mean(numbers))
        assert statistics_of(parts).rows.shape[0] == len(parts)


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
        sums = statistics_of(roc_auc(scores, positive))
        rows = np.asarray(sums.rows.sum(axis=0)).ravel()
        fewer = positive if positive.sum() == 2 else ~positive
        assert list(sums.informative) == list(fewer)
        for end, one in ((sums.worst, -1.0), (sums.best, 2.0)):
            place = one if positive.sum() == 2 else 1 - one
            grown = roc_auc(np.append(scores, place), np.append(positive, positive.sum() == 2))
            assert float(sums.value(rows + end)) == pytest.approx(np.mean(grown))


def test_what_one_sample_adds_at_worst_and_at_best_is_a_usual_one_within_the_bounds_of_its_kind():
    sums = statistics_of(ratio([1.0, 2.0, 0.0], [2.0, 4.0, 0.0]))  # what divides is 3 where there is any
    assert (sums.worst.tolist(), sums.best.tolist(), sums.is_proportion) == ([0, 3], [3, 3], True)
    assert not statistics_of(ratio([3.0, 1.0], [2.0, 2.0])).is_proportion
    assert not statistics_of(ratio([-1.0, 1.0], [2.0, 2.0])).is_proportion
    for plain, least, largest in (([0.2, 0.8], 0.0, 1.0), ([3.0, 5.0], 0.0, 4.0), ([-2.0, None, -4.0], -3.0, 1.0)):
        sums = statistics_of(plain)
        assert (sums.worst.tolist(), sums.best.tolist()) == ([least, 1], [largest, 1])


def test_samples_without_a_score_add_nothing():
    samples = [ScoredSample("a", 1.0), ScoredSample("b", None), ScoredSample("c", 0.0)]
    parts = on_scored_samples(samples, lambda scored: ratio([1.0 for _ in scored], [2.0 for _ in scored]))
    sums = statistics_of(parts)
    assert sums.rows[1].tolist() == [0, 0]
    assert list(sums.informative) == [True, False, True]
    assert total(parts) == 0.5


def test_a_group_has_one_row():
    samples = [ScoredSample(str(i), float(i != 2), f"g{i // 2}") for i in range(6)]
    parts = mean_over_groups(samples, lambda members: float(all(m.score == 1 for m in members)))
    sums = statistics_of(parts)
    assert sums.rows[:, 1].tolist() == [1, 0, 1, 0, 1, 0]
    assert sums.informative.sum() == 3
    assert total(parts) == pytest.approx(2 / 3)


def test_run_level_values_can_be_copied():
    parts = copy.deepcopy(roc_auc([0.1, 0.9, 0.4], [False, True, True]))
    assert total(parts) == 1
    assert parts == roc_auc([0.1, 0.9, 0.4], [False, True, True])
