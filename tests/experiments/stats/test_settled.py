from dataclasses import replace

import numpy as np
import pytest

from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.settled import (
    MIN_LABELS,
    LabeledArm,
    OutputStratum,
    ReaderAudit,
    audit,
    corrected_values,
    settle,
)
from lab.simulation.settling import choose, draw_arms, settling_rows

N = 200
UNITS = np.arange(N)


@pytest.fixture
def arms():
    return draw_arms(np.random.default_rng(0), N, prose=0.4)


def _ends(result):
    return result.difference, result.low, result.high, result.p


def test_with_every_unread_output_labeled_it_is_the_exact_test_of_the_labels(arms):
    reference, arm = arms
    exact = paired_test(Pairs(reference.label, arm.label, UNITS))
    result = settle(*arms, reference.unread, UNITS)
    assert _ends(result) == (exact.difference, exact.low, exact.high, exact.p)
    assert result.num_labels == result.num_unread == reference.unread.sum()


def test_without_unread_outputs_it_is_the_exact_test_of_the_scores(arms):
    arm = arms[1]
    other = LabeledArm(1 - arm.score, arm.proxy, np.full(N, np.nan))
    exact = paired_test(Pairs(other.score, arm.score, UNITS))
    assert _ends(settle(other, arm, np.zeros(N, bool), UNITS)) == (exact.difference, exact.low, exact.high, exact.p)


def test_the_difference_is_that_of_the_labels_plus_the_proxy_corrected_by_its_mean_error(arms):
    reference, arm = arms
    chosen = choose(np.random.default_rng(1), reference.unread, 30)
    result = settle(*arms, chosen, UNITS)
    unread = reference.unread
    g, y = -reference.proxy, -reference.label
    residual = (y - result.slope * g)[chosen].mean()
    read = np.where(unread, arm.label, arm.score - np.nan_to_num(reference.score))
    expected = (read.sum() + (result.slope * g[unread] + residual).sum()) / N
    assert result.difference == pytest.approx(expected)
    assert result.coverage == f"30 of {unread.sum()} unread labeled"


def test_a_proxy_that_guesses_has_no_weight_and_the_labels_decide_alone(arms):
    reference, arm = arms
    chosen = choose(np.random.default_rng(1), reference.unread, 60)
    opposite = replace(reference, proxy=1 - reference.label)  # worse than a guess: the slope is clipped at 0
    nothing = replace(reference, proxy=np.zeros(N))
    assert settle(opposite, arm, chosen, UNITS).slope == 0
    assert _ends(settle(opposite, arm, chosen, UNITS)) == pytest.approx(_ends(settle(nothing, arm, chosen, UNITS)))


def test_a_perfect_proxy_gives_the_mean_of_all_labels_from_few(arms):
    reference, arm = (replace(one, proxy=one.label) for one in arms)
    chosen = choose(np.random.default_rng(1), reference.unread, MIN_LABELS)
    assert settle(reference, arm, chosen, UNITS).difference == pytest.approx((arm.label - reference.label).mean())


def test_labels_that_all_agree_with_a_judge_do_not_call_it_perfect(arms):
    few, whole = (
        settle(*(replace(one, proxy=one.label) for one in arms), chosen, UNITS)
        for chosen in (choose(np.random.default_rng(1), arms[0].unread, MIN_LABELS), arms[0].unread)
    )
    assert few.high - few.low > 1.1 * (whole.high - whole.low)


def test_the_order_of_pairs_changes_nothing_and_swapped_arms_change_the_sign(arms):
    reference, arm = arms
    chosen, order = choose(np.random.default_rng(1), reference.unread, 40), np.random.default_rng(2).permutation(N)
    shuffled = [LabeledArm(one.score[order], one.proxy[order], one.label[order]) for one in arms]
    straight = settle(*arms, chosen, UNITS)
    assert _ends(settle(*shuffled, chosen[order], UNITS[order])) == pytest.approx(_ends(straight))
    swapped = settle(arm, reference, chosen, UNITS)
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-straight.difference, -straight.high, -straight.low)
    )


def test_labels_outside_the_sample_are_not_read(arms):
    chosen = choose(np.random.default_rng(1), arms[0].unread, 40)
    blind = [replace(one, label=np.where(chosen, one.label, np.nan)) for one in arms]
    assert settle(*blind, chosen, UNITS) == settle(*arms, chosen, UNITS)


def test_fewer_than_twenty_labeled_pairs_give_no_estimate(arms):
    chosen = choose(np.random.default_rng(1), arms[0].unread, MIN_LABELS - 1)
    assert settle(*arms, chosen, UNITS) is None
    assert settle(*(LabeledArm(*[np.zeros(0)] * 3) for _ in range(2)), np.zeros(0, bool), UNITS[:0]) is None


def test_outputs_of_which_nobody_can_tell_widen_the_interval_to_both_fillings(arms):
    reference, arm = arms
    chosen = choose(np.random.default_rng(1), reference.unread, 60)
    lost = np.flatnonzero(chosen)[:6]

    def with_label(value):
        label = reference.label.copy()
        label[lost] = value
        return settle(replace(reference, label=label), arm, chosen, UNITS)

    unsure, right, wrong = map(with_label, (np.nan, 1.0, 0.0))
    assert (unsure.low, unsure.high) == (right.low, wrong.high)
    assert unsure.difference == pytest.approx((right.difference + wrong.difference) / 2)
    assert unsure.p >= max(right.p, wrong.p) or right.difference > 0 or wrong.difference < 0


def test_what_the_reader_had_wrong_is_corrected_by_labels_of_read_outputs(arms):
    reference, arm = (LabeledArm(one.label, one.label, one.label) for one in arms)
    misread = np.random.default_rng(3).random(N) < 0.3
    refused = replace(reference, score=np.where(misread, 0.0, reference.label))
    checked = audit(refused.score[:80], refused.label[:80])
    assert checked.is_refuted
    assert checked.describe().startswith(f"agrees with {80 - checked.errors} of 80 labels, so")
    truth = (arm.label - reference.label).mean()
    naive, mended = (settle(refused, arm, UNITS < 0, UNITS, audited=of) for of in (None, UNITS < 80))
    assert not naive.low <= truth <= naive.high
    assert mended.low <= truth <= mended.high
    exact = paired_test(Pairs(reference.label, arm.label, UNITS))
    assert _ends(settle(refused, arm, UNITS < 0, UNITS, audited=UNITS >= 0)) == pytest.approx(
        (exact.difference, exact.low, exact.high, exact.p)
    )


def test_a_reader_that_agrees_with_98_of_100_labels_counts_as_the_truth():
    score = np.ones(100)
    assert not audit(score, np.where(np.arange(100) < 2, 0.0, 1.0)).is_refuted
    assert audit(score, np.where(np.arange(100) < 3, 0.0, 1.0)).is_refuted


def test_the_values_of_the_pairs_have_the_variance_of_the_mean_of_labels():
    draw = np.random.default_rng(0)
    truth, sampled = draw.normal(size=500), np.arange(500) < 50
    values, slope = corrected_values(OutputStratum(np.zeros(500), truth, np.ones(500, bool), sampled))
    assert slope == 1
    assert values.mean() == pytest.approx(truth[sampled].mean())
    assert values.var() / 500 == pytest.approx(truth[sampled].var(ddof=1) / 50)


def test_sixty_labels_cover_a_truth_that_the_proxy_misses():
    rows = {row["by"]: row for row in settling_rows([N], [60], 0.0, runs=200)}
    assert rows["the proxy as the truth"]["coverage"] < 0.2
    assert rows["60 queries labeled"]["coverage"] >= 0.92  # .95 - 2 standard errors
    real = {row["by"]: row for row in settling_rows([N], [60], 0.14, runs=50)}
    assert real["60 queries labeled"]["claims a sign"] > 0.8


def test_an_arm_that_is_misread_refutes_the_reader_however_many_arms_dilute_its_errors():
    clean = ReaderAudit(20, 0)
    assert not ReaderAudit(240, 4).is_refuted
    assert ReaderAudit(240, 4, (*[clean] * 11, ReaderAudit(20, 4))).is_refuted
    assert not ReaderAudit(240, 4, (*[ReaderAudit(20, 1)] * 4, *[clean] * 8)).is_refuted  # one slip an arm


def test_few_audited_pairs_give_no_estimate_and_an_audited_output_of_which_nobody_can_tell_is_no_agreement(arms):
    reference, arm = (LabeledArm(one.label, one.label, one.label) for one in arms)
    none = UNITS < 0
    assert settle(reference, arm, none, UNITS, audited=UNITS < 1) is None
    assert settle(reference, arm, none, UNITS, audited=UNITS < MIN_LABELS - 1) is None
    unsure = replace(reference, label=np.where(UNITS < 3, np.nan, reference.label))
    certain, wide = (settle(one, arm, none, UNITS, audited=UNITS < 40) for one in (reference, unsure))
    assert wide.high - wide.low > certain.high - certain.low


def _of_seeds(queries, seeds, labeled):
    """A judge that refuses the right prose of every twelfth query, in all of its seeds, and the first queries."""
    units = np.repeat(np.arange(queries), seeds)
    truth = (units % 5 < 3).astype(float)
    reference = LabeledArm(np.full(len(units), np.nan), np.where(units % 12 == 11, 0.0, truth), truth)
    return settle(reference, LabeledArm(truth, truth, truth), units < labeled, units)


def test_seeds_of_a_query_are_one_label_in_the_guard_and_in_the_width():
    assert _of_seeds(200, 12, MIN_LABELS - 1) is None
    one, twelve = _of_seeds(200, 1, MIN_LABELS), _of_seeds(200, 12, MIN_LABELS)
    assert twelve.high - twelve.low == pytest.approx(one.high - one.low, rel=0.05)


def test_p_is_significant_exactly_if_the_interval_leaves_out_0():
    sizes = np.array([60, *[2] * 60])
    units = np.repeat(np.arange(61), sizes)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        truth, unread = (draw.random(len(units)) < 0.6).astype(float), draw.random(len(units)) < 0.5
        proxy = np.where(unread & (draw.random(len(units)) < 0.3), 0.0, truth)
        higher = np.where(draw.random(len(units)) < 0.1, 1.0, truth)
        reference = LabeledArm(np.where(unread, np.nan, truth), proxy, truth)
        result = settle(reference, LabeledArm(higher, higher, higher), units < 40, units)
        for level in (1 - result.p - 1e-6, 1 - result.p + 1e-6):
            ends = settle(reference, LabeledArm(higher, higher, higher), units < 40, units, level=level)
            assert (ends.low <= 0 <= ends.high) == (level > 1 - result.p)
