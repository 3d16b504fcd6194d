"""Macro F1: an interval inside [0, 1], and a test of two arms on the statistic itself."""

import numpy as np
import pytest

from experiments.stats.pairs import align_pairs, paired_test
from experiments.stats.summary import estimate_arm

sklearn = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)


def frame(tidied, answers, gold, cell="c"):
    return tidied("macro_f1", [float(word == "yes") for word in answers], list(gold), cell=cell)


def test_the_interval_stays_in_bounds_and_has_width_if_all_are_right(tidied):
    gold = ["yes"] * 10 + ["no"] * 10
    whole = estimate_arm(frame(tidied, gold, gold), "m")
    nothing = estimate_arm(frame(tidied, gold[::-1], gold), "m")
    z2 = 1.959963984540054**2
    assert (whole.mean, whole.high) == (1, 1)
    assert whole.low == pytest.approx(20 / (20 + z2))  # Wilson, as of the accuracy
    assert (nothing.mean, nothing.low) == (0, 0)
    assert nothing.high == pytest.approx(z2 / (20 + z2))
    near = estimate_arm(frame(tidied, [*gold[:-1], "yes"], gold), "m")
    assert 0 < near.low < near.mean < near.high <= 1


def test_the_interval_is_that_of_a_bootstrap_of_scikit_learns_number(tidied):
    gold = np.where(RNG.random(200) < 0.3, "yes", "no")
    answers = np.where(RNG.random(200) < 0.25, np.where(gold == "yes", "no", "yes"), gold)
    estimate = estimate_arm(frame(tidied, answers, gold), "m")
    draws = [RNG.integers(0, 200, 200) for _ in range(400)]
    low, high = np.quantile([sklearn.f1_score(gold[d], answers[d], average="macro") for d in draws], [0.025, 0.975])
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.02)


def test_two_arms_are_tested_on_the_statistic_itself(tidied):
    gold = np.array(["yes", "no"] * 30)
    one, other = (np.where(RNG.random(60) < wrong, "yes", gold) for wrong in (0.05, 0.9))
    pairs = align_pairs(frame(tidied, one, gold), frame(tidied, other, gold, "d"), "m")
    result = paired_test(pairs)
    scores = [sklearn.f1_score(gold, answers, average="macro") for answers in (one, other)]
    assert result.difference == pytest.approx(scores[1] - scores[0])
    assert result.p < 0.01
    assert -1 <= result.low <= result.difference <= result.high < 0
    same = paired_test(align_pairs(frame(tidied, one, gold), frame(tidied, one, gold, "d"), "m"))
    assert (same.difference, same.p) == (0, 1)
