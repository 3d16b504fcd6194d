"""Intervals and pairs of run-level metrics, also if their pseudo-values look like right and wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.stats.arms import find_baseline_column
from experiments.stats.decoding_effects import count_transitions
from experiments.stats.intervals import estimate_mean, few_clusters_factor, wilson
from experiments.stats.pairs import UnpairedError, align_pairs, paired_test
from experiments.stats.run_statistics import (
    RunStatistic,
    SampleRef,
    _exact,
    align_run_statistics,
    drop_scores,
    estimate_run_statistic,
    sample_ref_column,
)
from experiments.stats.summary import estimate_arm, summarize_arms
from icl.metrics.base import ScoredSample
from icl.metrics.binary import F1
from icl.metrics.macro_f1 import MacroF1
from icl.metrics.run_level import macro_f1, mean, ratio, roc_auc

Z2 = 1.959963984540054**2


def golds(yes, no):
    return ["yes"] * yes + ["no"] * no


def owns(parts):
    whole = RunStatistic(F1(), tuple(ScoredSample(f"q{i}", 1.0) for i in range(len(parts))), parts)
    return [SampleRef(whole, i) for i in range(len(parts))]


def interval(parts, clusters=None):
    values = np.asarray(parts, dtype=float)
    return estimate_run_statistic(owns(parts), values, np.arange(len(parts)) if clusters is None else clusters)


# one arm


def test_an_f1_of_one_has_an_interval_from_its_positive_answers(tidied):
    gold = golds(10, 190)
    estimate = estimate_arm(tidied("f1", [1.0] * 10 + [0.0] * 190, gold), "m")
    assert (estimate.mean, estimate.high) == (1, 1)
    assert estimate.low == pytest.approx(20 / (20 + Z2))  # Wilson on F / (2 - F) = 10 of 10
    proportion = wilson(10, 10)[0]
    assert estimate.low == pytest.approx(2 * proportion / (1 + proportion))


def test_a_recall_of_one_is_wilson_at_the_number_of_positives(tidied):
    estimate = estimate_arm(tidied("recall", [1.0] * 5 + [0.0] * 95, golds(5, 95)), "m")
    assert (estimate.low, estimate.high) == pytest.approx(wilson(5, 5))


def test_an_f1_of_zero_has_an_interval_from_its_errors(tidied):
    estimate = estimate_arm(tidied("f1", [0.0] * 8 + [1.0] * 12, golds(8, 12)), "m")
    proportion = wilson(0, 20)[1]
    assert (estimate.mean, estimate.low) == (0, 0)
    assert estimate.high == pytest.approx(2 * proportion / (1 + proportion))


def test_all_right_groups_have_a_wilson_interval_over_groups(tidied):
    rows = tidied("group_accuracy", [1.0] * 12, golds(12, 0), groups=[f"g{i // 2}" for i in range(12)])
    estimate = estimate_arm(rows, "m")
    assert (estimate.low, estimate.high) == pytest.approx(wilson(6, 6))
    assert estimate.clusters == 6


@pytest.mark.parametrize("sizes", [(2, 2, 1), (1, 3), (1, 2, 3, 4)])
def test_all_right_groups_of_unequal_sizes_have_the_interval_of_their_number(tidied, sizes):
    names = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    estimate = estimate_arm(tidied("group_accuracy", [1.0] * len(names), golds(len(names), 0), groups=names), "m")
    assert (estimate.mean, estimate.high) == (pytest.approx(1), pytest.approx(1))
    assert estimate.low == pytest.approx(wilson(len(sizes), len(sizes))[0])


def test_an_area_without_spread_has_an_interval_from_its_smaller_class():
    for scores, middle in ((lambda positive: 1.0 * positive, 1.0), (lambda positive: 0.0 * positive, 0.5)):
        positive = np.arange(200) < 12
        estimate = interval(roc_auc(scores(positive), positive))
        assert estimate.mean == middle
        assert estimate.low == pytest.approx((12 * middle + Z2 * 0) / (12 + Z2))
        assert estimate.high == pytest.approx((12 * middle + Z2) / (12 + Z2))
        turned = interval(roc_auc(scores(positive), ~positive))  # the smaller class is the other one
        assert (turned.low, turned.high) == pytest.approx((1 - estimate.high, 1 - estimate.low))


def t_interval(values):
    return stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))


def test_a_mean_that_is_no_proportion_has_the_t_interval_or_bounds_without_spread():
    values = list(np.random.default_rng(0).exponential(size=60))
    estimate = interval(mean(values, high=10))
    assert (estimate.low, estimate.high) == pytest.approx(t_interval(values))
    nothing = interval(mean([0.0] * 50, high=10))
    assert (nothing.low, nothing.high) == pytest.approx((0, 10 * Z2 / (50 + Z2)))


def test_a_custom_metric_with_plain_numbers_is_bounded_as_a_proportion():
    estimate = interval([1.0] * 30)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(30, 30))


def test_copies_under_more_seeds_do_not_narrow_the_interval():
    for wrong in (0, 4):
        answers, positive = np.arange(40) < 20 - wrong, np.arange(40) < 20
        once = ratio(2.0 * (answers & positive), 1.0 * answers + positive, (0, 1), (2, 2))
        alone = interval(once)
        thrice = [
            own
            for _ in range(3)
            for own in owns(ratio(2.0 * (answers & positive), 1.0 * answers + positive, (0, 1), (2, 2)))
        ]
        thrice = estimate_run_statistic(thrice, np.tile(np.asarray(once, float), 3), np.tile(np.arange(40), 3))
        assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))
        assert (thrice.samples, thrice.clusters) == (120, 40)


def test_one_cluster_has_a_wide_interval():
    estimate = interval(ratio([1.0, 0.0], [1.0, 1.0]), clusters=[0, 0])
    assert estimate.low < 0.15
    assert estimate.high > 0.85


def test_the_summary_of_an_arm_has_the_same_interval(tidied):
    rows = tidied("f1", [1.0] * 10 + [0.0] * 10, golds(10, 10))
    (row,) = summarize_arms(rows, "m", axes=()).to_dict("records")
    estimate = estimate_arm(rows, "m")
    assert (row["low"], row["high"]) == (estimate.low, estimate.high)


@pytest.mark.parametrize("kind", ["f1", "recall", "area", "mean"])
def test_intervals_cover_near_the_ends(kind):
    draw = np.random.default_rng(5)

    def parts():
        if kind == "mean":
            return mean(list(draw.exponential(1.0, 60) * (draw.random(60) < 0.7)), high=10), 0.7
        if kind == "area":
            positive = np.arange(40) % 2 == 0
            return roc_auc(draw.normal(size=40) + 4.0 * positive, positive), 0.99766
        if kind == "recall":
            positive = np.arange(60) < 10
            answers = positive & (draw.random(60) < 0.9)
            return ratio(1.0 * (answers & positive), 1.0 * positive), 0.9
        positive = draw.random(40) < 0.25
        answers = positive ^ (draw.random(40) < 0.02)
        return ratio(2.0 * (answers & positive), 1.0 * answers + positive, (0, 1), (2, 2)), 2 * 0.245 / (
            0.49 + 0.015 + 0.005
        )

    hit = old = 0
    for _ in range(400):
        numbers, truth = parts()
        estimate = interval(numbers)
        hit += estimate.low <= truth <= estimate.high
        guessed = estimate_mean(np.asarray(numbers, dtype=float))
        old += guessed.low <= truth <= guessed.high
    assert 0.91 <= hit / 400 <= 0.985
    if kind == "recall":  # a third of the draws are all right: as if 60 samples had said so
        assert old / 400 < 0.7


# pairs


def compared(reference, arm):
    pairs = align_pairs(reference, arm, "m")
    return pairs, paired_test(pairs)


def test_a_sample_that_failed_in_one_arm_is_no_error_of_the_other(tidied):
    gold = golds(4, 4)
    whole = tidied("f1", [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], gold)
    failing = tidied("f1", [1.0, 1.0, 1.0, None, 0.0, 0.0, 0.0, 0.0], gold, cell="d")
    pairs, result = compared(failing, whole)
    assert result.difference == 0  # on the seven that both have they say the same
    assert (result.p, result.pairs, result.dropped_pairs) == (1, 7, 1)
    assert result.is_identical
    assert pairs.arm.mean() == pairs.reference.mean() == 1
    assert whole["m"].mean() == pytest.approx(6 / 7)


def test_a_group_with_a_failure_in_one_arm_counts_in_none(tidied):
    groups = ["a", "a", "b", "b", "c", "c"]
    one = tidied("group_accuracy", [1.0, 1.0, 1.0, 0.0, 1.0, 1.0], golds(6, 0), groups=groups)
    other = tidied("group_accuracy", [1.0, 1.0, 1.0, None, 0.0, 1.0], golds(6, 0), groups=groups, cell="d")
    pairs, result = compared(one, other)
    assert (pairs.reference.mean(), pairs.arm.mean(), result.pairs) == (1, 0.5, 4)


def test_pairs_without_failures_keep_the_numbers_of_the_run(tidied):
    one, other = tidied("f1", [1.0, 0.0, 1.0], golds(2, 1)), tidied("f1", [1.0, 1.0, 0.0], golds(2, 1), cell="d")
    pairs = align_pairs(one, other, "m")
    assert list(pairs.reference) == list(one["m"])
    assert list(pairs.arm) == list(other["m"])


def test_an_arm_with_an_undefined_score_has_no_pair(tidied):
    none = tidied("precision", [0.0, 0.0], golds(1, 1))  # it never said yes
    some = tidied("precision", [1.0, 0.0], golds(1, 1), cell="d")
    with pytest.raises(UnpairedError, match="2 dropped"):
        compared(none, some)


def test_cells_are_weighted_by_their_pairs(tidied):
    import pandas as pd

    def two(first, second):
        small = tidied("recall", first, golds(2, 0), cell=str(first)).assign(seed=0)
        large = tidied("recall", second, golds(6, 0), cell=str(second)).assign(seed=1)
        return pd.concat([small, large], ignore_index=True)

    one, other = two([1.0, 0.0], [1.0] * 6), two([1.0, 1.0], [1.0] * 3 + [0.0] * 3)
    pairs, result = compared(one, other)
    assert result.difference == pytest.approx((2 * 0.5 + 6 * -0.5) / 8)
    assert [stratum.weight for stratum in pairs.strata] == [0.25, 0.75]


def test_a_run_level_metric_has_no_transitions(tidied):
    one, other = tidied("f1", [1.0, 1.0, 0.0], golds(2, 1)), tidied("f1", [1.0, 0.0, 0.0], golds(2, 1), cell="d")
    assert count_transitions(one, other, "m") is None
    result = paired_test(align_pairs(one, other, "m"))
    assert (result.right_to_wrong, result.wrong_to_right) == (None, None)
    assert not result.is_identical


def test_a_csv_shows_the_score_of_a_sample(tidied):
    rows = tidied("f1", [1.0, None], golds(2, 0))
    assert list(map(str, rows[sample_ref_column("m")])) == ["1", ""]


def test_a_run_level_metric_against_a_sample_metric_is_graded_and_has_no_vote(tidied):
    rows = tidied("recall", [1.0, 1.0, 1.0], golds(3, 0)).assign(vote=[1.0, 0.0, 1.0])
    assert paired_test(align_pairs(rows, rows, "m", reference_metric="vote")).test == "randomization"
    assert find_baseline_column(rows, "vote", "m") is None
    assert find_baseline_column(rows.drop(columns=sample_ref_column("m")), "vote", "m") == "vote"


def test_the_variance_over_clusters_is_at_least_that_over_samples():
    estimate = interval(ratio([1.0, 0.0] * 20, [1.0] * 40), clusters=np.arange(40) // 2)
    size = 39 * few_clusters_factor(np.full(20, 2.0), 0.95)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(size / 2, size))


def test_pairs_of_a_part_of_a_cell_use_that_part_alone(tidied):
    gold = golds(4, 4)
    one = tidied("f1", [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], gold)
    other = tidied("f1", [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0], gold, cell="d")
    pairs = align_pairs(one[:4], other[:4], "m")
    assert (pairs.reference.mean(), pairs.arm.mean()) == pytest.approx((4 / 6, 6 / 7))


class Stubborn:
    """A metric with a number for every sample, failed or not, except one query in one arm."""

    better = "higher"

    def __init__(self, without):
        self.without = without

    def run_level(self, samples):
        return [None if sample.query == self.without else 1.0 for sample in samples]


def test_a_pair_without_a_number_in_one_arm_is_dropped_whatever_the_metric_says_of_failures():
    samples = tuple(ScoredSample(f"q{i}", 1.0) for i in range(4))
    for first, second in (("q0", ""), ("", "q0")):
        cells = [
            RunStatistic(metric, samples, metric.run_level(samples)) for metric in (Stubborn(first), Stubborn(second))
        ]
        a, b, cell_pairs = align_run_statistics(*([SampleRef(cell, i) for i in range(4)] for cell in cells))
        assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [False, True, True, True]
        assert [rows for rows, _, _ in cell_pairs] == [[1, 2, 3]]


def test_arms_with_statistics_of_different_kinds_are_compared_by_their_numbers():
    positive = np.arange(10) % 2 == 0
    left, right = owns(roc_auc(1.0 * positive, positive)), owns([1.0] * 4 + [0.0] * 6)
    _, _, ((rows, one, other),) = align_run_statistics(left, right)
    assert rows == list(range(10))
    assert float(one.value(one.rows.sum(axis=0))) == 1
    assert float(other.value(other.rows.sum(axis=0))) == pytest.approx(0.4)


def test_different_metrics_with_equally_many_sums_are_compared_by_their_numbers():
    positive, samples = np.arange(10) % 2 == 0, tuple(ScoredSample(f"q{i}", 1.0) for i in range(10))
    area = RunStatistic(F1(), samples, roc_auc(1.0 * positive, positive))
    macro = RunStatistic(MacroF1(), samples, macro_f1(np.arange(10) % 3, np.arange(10) % 2, labels=21))
    assert area.values.statistics.rows.shape == macro.values.statistics.rows.shape
    left, right, ((_, one, other),) = align_run_statistics(
        *([SampleRef(cell, i) for i in range(10)] for cell in (area, macro))
    )
    assert float(one.value(one.rows.sum(axis=0))) == pytest.approx(left.mean())
    assert float(other.value(other.rows.sum(axis=0))) == pytest.approx(right.mean())


def test_uninformative_samples_do_not_enlarge_clusters(tidied):
    rows = tidied("recall", [1.0, 0.0] * 10, ["yes", "no"] * 10, groups=[f"g{i // 2}" for i in range(20)])
    estimate = estimate_arm(rows, "m")
    assert (estimate.low, estimate.high) == pytest.approx(wilson(10, 10))


def test_a_ratio_that_is_no_proportion_has_the_t_interval():
    parts = ratio([2.0, 0.0, 2.0, 1.0, 2.0, 1.0] * 2, [1.0] * 12)
    estimate = interval(parts)
    assert (estimate.low, estimate.high) == pytest.approx(t_interval(parts))


def test_plain_numbers_outside_0_to_1_are_bounded_by_their_range():
    estimate = interval([2.0] * 10)
    assert (estimate.low, estimate.high) == (pytest.approx(20 / (10 + Z2)), 2)


class Chained:
    """A metric with a number for every sample whose predecessor did not fail."""

    better = "higher"

    def run_level(self, samples):
        ok = [sample.score is not None for sample in samples]
        return [1.0 if ok[i] and ok[i - 1] else None for i in range(len(samples))]


def test_both_arms_use_the_same_samples_if_a_failure_affects_others():
    metric = Chained()
    cells = []
    for scores in ([None, 1.0, 1.0, 1.0, 1.0], [1.0] * 5):
        samples = tuple(ScoredSample(f"q{i}", score) for i, score in enumerate(scores))
        cells.append(RunStatistic(metric, samples, metric.run_level(samples)))
    a, b, cell_pairs = align_run_statistics(*([SampleRef(cell, i) for i in range(5)] for cell in cells))
    assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [False, False, False, True, True]
    assert [rows for rows, _, _ in cell_pairs] == [[3, 4]]


def test_a_rounding_difference_is_zero(tidied):
    gold = golds(7, 6)
    first = tidied("f1", [1.0] * 5 + [0.0] * 2 + [0.0] * 5 + [1.0], gold)
    second = tidied("f1", [0.0] * 2 + [1.0] * 5 + [1.0] + [0.0] * 5, gold, cell="d")
    pairs, result = compared(first, second)
    assert pairs.differences.mean() != 0
    assert result.difference == 0
    assert not result.is_identical


def test_sums_of_both_arms_are_exact_in_any_order():
    draw = np.random.default_rng(20)
    left, right = _exact(*(0.98 + 0.02 * draw.random((500, 2)) for _ in range(2)))
    both = np.concatenate([left, right])
    for column in both.T:
        assert float(np.cumsum(column)[-1]) == float(np.cumsum(column[::-1])[-1]) == math.fsum(column)


def test_a_run_level_metric_is_computed_again_on_the_common_queries(tidied):
    left = tidied("f1", [1, 1, 0, 1, 0, 1], ["yes", "no", "yes", "yes", "no", "no"])
    lost = np.array([False, False, True, False, False, True])
    alone = tidied("f1", [1, 1, None, 1, 0, None], ["yes", "no", "yes", "yes", "no", "no"])
    dropped = drop_scores(left, lost, ["m"])
    assert dropped["m"].isna().tolist() == lost.tolist()
    assert dropped["m"].mean() == pytest.approx(alone["m"].mean())
    assert dropped["m"].mean() != pytest.approx(left["m"][~lost].mean())


def test_a_score_of_samples_that_are_dropped_is_missing():
    import pandas as pd

    frame = pd.DataFrame({"m": [1.0, 0.0, 1.0], "other": [1.0, 1.0, 1.0]})
    dropped = drop_scores(frame, np.array([True, False, False]), ["m"])
    assert dropped["m"].tolist()[1:] == [0, 1]
    assert np.isnan(dropped["m"][0])
    assert (dropped["other"].tolist(), frame["m"].tolist()) == ([1, 1, 1], [1, 0, 1])
