"""Macro F1: scikit-learn's number, of the samples that were seen and of others, and its influence numbers."""

import numpy as np
import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.macro_f1 import MacroF1
from icl.metrics.sufficient_statistics import statistics_of
from icl.types import Example, Generation

sklearn = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)
LABELS = ("red", "green", "blue", "gray", "pink")


def answered(said, gold, options=LABELS):
    pairs = zip(said, gold, strict=True)
    return [ScoredSample(f"q{i}", float(a == b), None, a, (b,), options) for i, (a, b) in enumerate(pairs)]


def mean_of(samples):
    return np.mean(MacroF1().run_level(samples))


def drawn(size=60, wrong=0.4):
    gold = RNG.choice(LABELS[:3], size)
    return np.where(RNG.random(size) < wrong, RNG.choice(LABELS[:4], size), gold), gold  # gray is said, never wanted


@pytest.mark.parametrize("options", [LABELS, ()])
def test_it_is_what_scikit_learn_says(options):
    said, gold = drawn()
    if not options:
        said = np.where(said == "gray", "red", said)
    assert mean_of(answered(said, gold, options)) == pytest.approx(sklearn.f1_score(gold, said, average="macro"))


def test_a_label_that_is_said_and_never_wanted_counts_and_one_that_is_neither_does_not():
    samples = answered(["red", "green", "pink", "red"], ["red", "green", "green", "red"])
    assert mean_of(samples) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert mean_of(answered(["red", "green"], ["red", "green"])) == 1


def test_an_output_that_names_no_label_is_missed_and_adds_none():
    gold, said = ["red", "red", "green", "green"], ["red", "I cannot tell", "green", "red or green"]
    assert mean_of(answered(said, gold)) == pytest.approx(
        sklearn.f1_score(gold, said, average="macro", labels=["red", "green"])
    )


def test_sentences_case_and_other_accepted_answers_are_read_as_lenient_reads_them():
    options = ("Red", "green")
    said = ["It is red.", "GREEN"]
    assert mean_of(answered(said, ["Red", "green"], options)) == 1
    assert (
        mean_of(
            [
                ScoredSample("a", 1.0, None, "crimson", ("red", "crimson")),
                ScoredSample("b", 1.0, None, "blue", ("blue",)),
            ]
        )
        == 1
    )
    assert mean_of(
        [ScoredSample("a", 1.0, None, "Yes, it is", ("yes",)), ScoredSample("b", 0.0, None, "yes", ("no",))]
    ) == (pytest.approx(1 / 3))


def test_a_sample_is_right_or_wrong():
    example = Example("a", (), "", ("red",), LABELS)
    assert [MacroF1().score(Generation(text), example) for text in ("red", "blue")] == [1, 0]


def test_the_rows_give_it_of_samples_drawn_anew():
    said, gold = drawn()
    sums = statistics_of(MacroF1().run_level(answered(said, gold)))
    for _ in range(5):
        again = RNG.integers(0, 60, 8)  # few: some labels are gone
        found = sums.value(np.asarray(sums.rows[again].sum(axis=0)))
        assert float(found[0]) == pytest.approx(sklearn.f1_score(gold[again], said[again], average="macro"))


def test_the_numbers_are_the_derivative_of_scikit_learns_in_the_samples_weights():
    said, gold = drawn()
    parts = MacroF1().run_level(answered(said, gold))
    for i in (0, 7, 23):
        weights = np.ones(60)
        weights[i] += 1e-5
        moved = sklearn.f1_score(gold, said, average="macro", sample_weight=weights)
        assert (moved - np.mean(parts)) / 1e-5 == pytest.approx((parts[i] - np.mean(parts)) / 60, abs=1e-6)


def test_arms_that_say_other_labels_have_the_same_rows():
    gold = ["red", "green", "blue"]
    rows = [statistics_of(MacroF1().run_level(answered(said, gold))).rows.shape for said in (gold, ["pink"] * 3)]
    assert rows[0] == rows[1]
