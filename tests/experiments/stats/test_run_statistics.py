"""Intervals, pairs and tests of run-level metrics, compared with direct computations."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import rankdata

from experiments.results.column_effects import arm_interactions
from experiments.results.paired_runs import concat_scores
from experiments.stats import exchanges, sign_flips
from experiments.stats.arms import find_baseline_column
from experiments.stats.bounds import ArmBounds, bound_arm
from experiments.stats.decoding_effects import count_transitions
from experiments.stats.exchanges import (
    align_run_statistics,
    build_strata,
    differences_at_look,
    exchanged_differences,
    randomization_test,
)
from experiments.stats.intervals import estimate_mean, few_clusters_factor, wilson
from experiments.stats.pairs import UnpairedError, align_pairs, paired_test
from experiments.stats.run_level_frames import SAMPLE, RunLevelScores, add_run_level, drop_scores, within_parts
from experiments.stats.run_statistics import estimate_run_statistic
from experiments.stats.sign_flips import sign_flip_test
from experiments.stats.significance import exact_sign_flip_p
from experiments.stats.summary import estimate_arm, summarize_arms
from icl.errors import ConfigError
from icl.metrics.base import ScoredSample
from icl.metrics.binary import F1, Recall
from icl.metrics.classification import MacroF1, roc_auc
from icl.metrics.run_level import mean, ratio, run_statistic

Z2 = 1.959963984540054**2


def golds(yes, no):
    return ["yes"] * yes + ["no"] * no


class FixedStatistic:
    """A metric whose statistic is given for each cell."""

    better = "higher"

    def __init__(self, statistic):
        self.statistic = statistic

    def run_level(self, samples):
        return self.statistic


def scores_of(statistic, cells=1):
    """The scores of cells that all have this statistic."""
    n = len(run_statistic(statistic).counted)
    samples = [ScoredSample(f"q{i}", 1.0) for i in range(n)] * cells
    return RunLevelScores(FixedStatistic(statistic), samples, np.repeat(np.arange(cells), n))


def interval(statistic, clusters=None, cells=1):
    scores = scores_of(statistic, cells)
    count = len(scores.samples)
    return estimate_run_statistic(scores, np.arange(count), np.arange(count) if clusters is None else clusters)


def numbers_of(scores):
    return np.arange(len(scores.samples)), np.arange(len(scores.samples))


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
        alone, thrice = interval(once), interval(once, np.tile(np.arange(40), 3), cells=3)
        assert thrice.low <= alone.low + 1e-9
        assert thrice.high >= alone.high - 1e-9
        assert thrice.high - thrice.low < 1.1 * (alone.high - alone.low)  # t of 40 clusters in place of z
        assert (thrice.samples, thrice.clusters) == (120, 40)


def test_cells_with_clusters_of_their_own_have_the_interval_of_all_clusters():
    ones = np.ones(50)
    estimate = interval(ratio(ones, ones), cells=2)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(100, 100))


def test_an_interval_without_spread_contains_its_estimate():
    estimate = interval(ratio([2.0] * 10, [1.0] * 10))  # above the range of a share, which a ratio has by default
    assert estimate.low < 2 <= estimate.high


def test_a_recall_of_few_positives_is_as_uncertain_as_their_number():
    positive = np.arange(150) < 6
    recall = ratio(1.0 * (positive & (np.arange(150) % 2 == 0)), 1.0 * positive)
    alone, pairs = interval(recall), interval(recall, clusters=np.maximum(0, np.arange(150) - 4))
    assert (alone.low, alone.high) == pytest.approx(wilson(3, 6), abs=0.05)
    assert pairs.low < 0.05  # two clusters with positives, of 146
    assert pairs.high > 0.95


@pytest.mark.parametrize("size", [1, 3])
def test_intervals_of_rare_positives_cover_with_and_without_clusters(size):
    draw, covered = np.random.default_rng(6), []
    for _ in range(400):
        positive = np.repeat(draw.random(150 // size) < 0.1, size)
        rate = np.repeat(draw.beta(2.1, 0.9, 150 // size), size) if size > 1 else 0.7
        estimate = interval(ratio(positive * (draw.random(150) < rate), 1.0 * positive), np.arange(150) // size)
        covered.append(estimate.low <= 0.7 <= estimate.high)
    assert np.mean(covered) > 0.93  # three samples a cluster: .93 if t counts the clusters without a positive


def test_intervals_of_few_queries_under_several_seeds_cover():
    draw, covered = np.random.default_rng(8), []
    for _ in range(500):
        rates = np.tile(draw.beta(2.8, 1.2, 6), 10)  # 6 queries under 10 seeds
        right = 1.0 * (draw.random(60) < rates)
        samples = [ScoredSample(f"q{i % 6}", one, gold=("yes",)) for i, one in enumerate(right)]
        scores = RunLevelScores(ShareOfPositives(), samples, np.repeat(np.arange(10), 6))
        estimate = estimate_run_statistic(scores, np.arange(60), np.tile(np.arange(6), 10))
        covered.append(estimate.low <= 0.7 <= estimate.high)
    assert np.mean(covered) > 0.93  # .905 without t


class ShareOfPositives:
    better = "higher"

    def run_level(self, samples):
        positive = np.array([sample.gold == ("yes",) for sample in samples])
        return ratio(positive * np.array([sample.score or 0 for sample in samples]), 1.0 * positive)


def test_samples_for_which_the_statistic_is_undefined_have_no_part_in_its_mean():
    gold = [("yes",)] * 8 + [("no",)] * 8
    samples = [ScoredSample(f"q{i}", float(i % 2), gold=one) for i, one in enumerate(gold)]
    scores, numbers = RunLevelScores(ShareOfPositives(), samples, np.repeat([0, 1], 8)), np.arange(16)
    both, defined = (estimate_run_statistic(scores, part, part) for part in (numbers, numbers[:8]))
    assert both == defined
    assert both.samples == 8
    assert np.isnan(estimate_run_statistic(scores, numbers[8:], numbers[8:]).mean)


def test_plain_numbers_above_1_are_not_cut_at_their_mean():
    numbers = list(np.random.default_rng(1).uniform(0.5, 2.5, size=40))
    estimate = interval(numbers)
    assert (estimate.low, estimate.high) == pytest.approx(t_interval(numbers))


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
        statistic, truth = parts()
        estimate = interval(statistic)
        hit += estimate.low <= truth <= estimate.high
        guessed = estimate_mean(statistic.numbers())
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
    def two(first, second):
        small = tidied("recall", first, golds(2, 0), cell=str(first)).assign(seed=0)
        large = tidied("recall", second, golds(6, 0), cell=str(second)).assign(seed=1)
        return concat_scores([small, large])

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


def test_the_numbers_of_a_cell_average_to_its_statistic_and_differ(tidied):
    rows = tidied("f1", [1.0, 0.0, None, 1.0], golds(2, 2))
    assert rows["m"].mean() == pytest.approx(0.5)
    assert rows["m"].isna().tolist() == [False, False, True, False]
    assert rows["m"].nunique() > 1  # their spread is that of the statistic


@pytest.mark.parametrize(("second", "differs"), [(0.1, False), (0.9, True)])
def test_effects_in_parts_are_compared_by_the_spread_of_the_statistic(tidied, second, differs):
    draw, gold = np.random.default_rng(4), ["yes", "no"] * 100
    kinds = np.repeat(["a", "b"], 100)

    def arm(name, wrong):
        flips = draw.random(200) < np.where(kinds == "a", *wrong)
        scores = [float((g == "yes") ^ flip) for g, flip in zip(gold, flips, strict=True)]
        return tidied("f1", scores, gold, cell=name, decoding=name, kind=list(kinds))

    frame = concat_scores([arm("greedy", (0.3, 0.3)), arm("vcd", (0.1, second))])
    frame = add_run_level(frame, within_parts(frame, (frame["kind"] == "b").to_numpy().astype(int)))
    (one,) = arm_interactions(frame, "kind", {"decoding": "greedy"}, "m", axes=("decoding",))
    assert (one.interaction.p <= 0.05) == differs


def test_parts_of_some_rows_leave_the_other_rows_out(tidied):
    rows = tidied("f1", [1.0, 1.0, 0.0, 1.0, 1.0, 1.0], golds(3, 3))[:4]
    numbers = add_run_level(rows, within_parts(rows, np.array([0, 0, 1, 1])))["m"]
    assert numbers[:2].mean() == pytest.approx(1)
    assert numbers[2:].mean() == pytest.approx(0)


def test_frames_of_two_runs_are_not_joined_as_one(tidied):
    rows = [tidied("f1", [1.0, 0.0], golds(2, 0), cell=cell) for cell in "cd"]
    with pytest.raises(ValueError, match="lost its attrs"):
        estimate_arm(pd.concat(rows), "m")
    joined = concat_scores(rows)
    assert estimate_arm(joined, "m").mean == pytest.approx(2 / 3)


def test_a_frame_that_lost_its_samples_is_refused(tidied):
    rows = tidied("f1", [1.0, 0.0], golds(2, 0))
    rows.attrs = {}
    with pytest.raises(ValueError, match="lost its attrs"):
        estimate_arm(rows, "m")


def test_a_run_level_metric_is_not_paired_with_a_sample_metric_and_has_no_vote(tidied):
    rows = tidied("recall", [1.0, 1.0, 1.0], golds(3, 0)).assign(vote=[1.0, 0.0, 1.0])
    with pytest.raises(ConfigError, match="'vote' and 'm' cannot be paired"):
        align_pairs(rows, rows, "m", reference_metric="vote")
    assert find_baseline_column(rows, "vote", "m") is None
    plain = rows.drop(columns=SAMPLE)
    plain.attrs = {}
    assert find_baseline_column(plain, "vote", "m") == "vote"


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
    samples = [ScoredSample(f"q{i}", 1.0) for i in range(4)]
    for first, second in (("q0", ""), ("", "q0")):
        arms = [RunLevelScores(Stubborn(one), samples, np.zeros(4, dtype=int)) for one in (first, second)]
        a, b, cell_pairs = align_run_statistics(*arms, numbers_of(arms[0]))
        assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [False, True, True, True]
        assert [rows.tolist() for rows, _, _ in cell_pairs] == [[1, 2, 3]]


def test_arms_of_different_metrics_are_refused():
    samples = [ScoredSample(f"q{i}", 1.0, output="yes", gold=("yes",)) for i in range(10)]
    f1, recall, macro = (RunLevelScores(m, samples, np.zeros(10, dtype=int)) for m in (F1(), Recall(), MacroF1()))
    for other in (recall, macro):
        with pytest.raises(ConfigError, match="scored by different metrics: F1, "):
            align_run_statistics(f1, other, numbers_of(f1))


def test_uninformative_samples_do_not_enlarge_clusters(tidied):
    rows = tidied("recall", [1.0, 0.0] * 10, ["yes", "no"] * 10, groups=[f"g{i // 2}" for i in range(20)])
    estimate = estimate_arm(rows, "m")
    assert (estimate.low, estimate.high) == pytest.approx(wilson(10, 10))


def test_a_ratio_that_is_no_proportion_has_the_t_interval():
    numbers = [2.0, 0.0, 2.0, 1.0, 2.0, 1.0] * 2
    estimate = interval(ratio(numbers, [1.0] * 12))
    assert (estimate.low, estimate.high) == pytest.approx(t_interval(numbers))


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
    arms = []
    for scores in ([None, 1.0, 1.0, 1.0, 1.0], [1.0] * 5):
        samples = [ScoredSample(f"q{i}", score) for i, score in enumerate(scores)]
        arms.append(RunLevelScores(Chained(), samples, np.zeros(5, dtype=int)))
    a, b, cell_pairs = align_run_statistics(*arms, numbers_of(arms[0]))
    assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [False, False, False, True, True]
    assert [rows.tolist() for rows, _, _ in cell_pairs] == [[3, 4]]


def test_a_rounding_difference_is_zero(tidied):
    gold = golds(7, 6)
    first = tidied("f1", [1.0] * 5 + [0.0] * 2 + [0.0] * 5 + [1.0], gold)
    second = tidied("f1", [0.0] * 2 + [1.0] * 5 + [1.0] + [0.0] * 5, gold, cell="d")
    _, result = compared(first, second)
    assert result.difference == 0
    assert not result.is_identical


def test_sums_of_both_arms_are_exact_in_any_order():
    draw = np.random.default_rng(20)
    graded = (mean(list(0.98 + 0.02 * draw.random(500))) for _ in range(2))
    (stratum,) = build_strata([(np.arange(500), *graded)], np.arange(500))
    both = np.concatenate([stratum.reference, stratum.arm])
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


# tests of two arms


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
    sizes = np.cumsum([0, *(len(one.counted) for one, _ in cells)])
    paired_cells = [(np.arange(a, b), *both) for a, b, both in zip(sizes[:-1], sizes[1:], cells, strict=True)]
    return build_strata(paired_cells, np.arange(sizes[-1]) if clusters is None else np.asarray(clusters))


def swap(*cells, clusters=None, **more):
    """The test of cells; each pair is its own cluster by default."""
    count = sum(len(one.counted) for one, _ in cells)
    clusters = np.arange(count) if clusters is None else np.asarray(clusters)
    return randomization_test(strata(*cells, clusters=clusters), np.bincount(clusters).astype(float), **more)


def randomization_p(*cells, **more):
    return swap(*cells, **more).p


def exchange_interval(*cells, **more):
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
        low, high = exchange_interval((parts(one, positive), parts(other, positive)), clusters=np.arange(120) // 2)
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
    assert exchange_interval(same) == pytest.approx((worst - 1, 1 - worst))
    pairs = ratio([1.0] * 30, [1.0] * 30), ratio([1.0] * 30, [1.0] * 30)
    assert exchange_interval(pairs, clusters=np.arange(30) // 3) == pytest.approx((-Z2 / (10 + Z2), Z2 / (10 + Z2)))


def test_equal_arms_are_bounded_by_worst_and_best_clusters():
    positive, answers = np.arange(50) < 20, np.arange(50) < 15
    low = 30 / (35 + Z2) - (30 + 2 * Z2) / (35 + 2 * Z2)  # F1: a cluster of errors more in one, of hits in the other
    assert exchange_interval((f1_parts(answers, positive),) * 2) == pytest.approx((low, -low))


def test_an_arm_that_is_always_right_against_one_that_never_is_has_an_interval():
    ones = [1.0] * 20
    low, high = exchange_interval((ratio([0.0] * 20, ones), ratio(ones, ones)))
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
        p_values.append(randomization_p((a, b), num_exchanges=400))
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
    (stratum,) = strata((ratio([1, 0, 0, 0], [1, 0, 0, 0]), ratio([1, 1, 0, 0], [1, 1, 0, 0])), clusters=[0, 0, 1, 1])
    assert list(stratum.best) == [2, 2]  # the second sample has a say in the arm alone


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
    high = Z2 / (40 + Z2)  # 40 clusters, each in one of the cells
    assert exchange_interval(*equal) == pytest.approx((-high, high))


def test_the_interval_is_the_same_for_any_piece_size(monkeypatch):
    positive, draw = np.arange(30) % 2 == 0, np.random.default_rng(8)
    made = tuple(roc_auc(draw.normal(size=30) + positive, positive) for _ in range(2))
    first = swap(made)
    monkeypatch.setattr(exchanges, "MAX_ENTRIES", 7 * len(strata(made)[0].worst))
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
            result = swap(parts, num_exchanges=400)
            assert (result.p <= 0.05) == (not result.low <= 0 <= result.high)
            outcomes.add(result.p <= 0.05)
    assert outcomes == {True, False}


@pytest.mark.parametrize("rows", [2000, 2001, 4003])
def test_patterns_belong_to_clusters_and_the_first_row_is_the_data(rows):
    right = [np.array([1.0, 0, 0, 1, 0]), np.array([1.0, 1, 1, 0, 1])]
    cell = tuple([ScoredSample(f"q{i}", own, gold=("yes",)) for i, own in enumerate(side)] for side in right)
    names = ["q0", "q1", "q2", "q3", "q4"]

    def differences(cells=(cell,), names=names, rows=rows, seed=7):
        return differences_at_look(Recall(), cells, names, rows, seed)

    every = differences()
    assert len(every) == rows
    assert every[0] == pytest.approx(0.4)
    assert abs(every.mean()) < 0.05
    assert set(np.round(every * 5)) == {-4, -2, 0, 2, 4}
    assert np.array_equal(every, differences())
    assert not np.array_equal(every, differences(seed=8))
    one = tuple(side[3:4] for side in cell)
    alone = differences([one], ["q3"])
    assert set(alone) == {-1.0, 1.0}
    longer = differences([one], ["q3"], rows + 8)
    assert np.array_equal(longer[:rows], alone), "more rows leave the first ones as they are"


@pytest.mark.parametrize(("gold", "lost"), [("no", ()), ("yes", (0, 1))])
def test_a_statistic_that_is_undefined_gives_zeros(gold, lost):
    """A recall without positives, and arms that share no sample."""
    sides = [
        [ScoredSample(f"q{i}", None if i in out else 1.0, gold=(gold,)) for i in range(4)] for out in (lost, (2, 3))
    ]
    assert not differences_at_look(Recall(), [(sides[0], sides[1])], ["q0", "q1", "q2", "q3"], 9, 0).any()


def test_failed_samples_and_seeds_are_counted_by_the_exchanges_as_by_the_test():
    draw = np.random.default_rng(3)

    def side(right, lost=()):
        golds = np.where(np.arange(12) % 2 == 0, "yes", "no")
        scores = (golds == "yes") == (draw.random(12) < right)
        return [
            ScoredSample(f"q{i}", None if i in lost else float(scores[i]), gold=(str(golds[i]),)) for i in range(12)
        ]

    cells = [(side(0.5, {4}), side(0.9)), (side(0.5), side(0.9, {5, 6}))]
    every = differences_at_look(F1(), cells, [f"q{i // 2}" for i in range(12)], 4_000, 0)
    sides = [RunLevelScores(F1(), cells[0][k] + cells[1][k], np.repeat([0, 1], 12)) for k in (0, 1)]
    a, b, paired = align_run_statistics(*sides, numbers_of(sides[0]))
    strata = build_strata(paired, np.tile(np.arange(12) // 2, 2))
    assert every[0] == exchanged_differences(strata, np.zeros((1, 6)))[0] == pytest.approx(np.nanmean(b - a))
    assert randomization_test(strata, np.full(6, 4.0)).p == pytest.approx(
        np.mean(np.abs(every) >= abs(every[0]) - 1e-12), abs=0.03
    )


def test_a_run_level_metric_with_an_unread_output_lies_anywhere_from_0_to_1(tidied):
    frame = tidied("f1", [1, 0, 1, 0], ["yes", "no", "yes", "no"])
    frame["unread:m"] = ["", "maybe", "", ""]
    assert bound_arm(frame, "m") == ArmBounds(0.0, 1.0, 0.0, 1.0, unread=0.25)
