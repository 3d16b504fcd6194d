"""Macro F1 equals scikit-learn's, on the samples, on resamples and without each sample."""

import numpy as np
import pytest

from icl.metrics.base import ScoredSample
from icl.metrics.classification import MacroF1
from icl.types import Example, Generation

sklearn = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)
LABELS = ("red", "green", "blue", "gray", "pink")


def cell_of(output, gold, options=LABELS):
    pairs = zip(output, gold, strict=True)
    return [ScoredSample(f"q{i}", float(a == b), None, a, (b,), options) for i, (a, b) in enumerate(pairs)]


def mean_of(samples):
    return MacroF1().run_level(samples).statistic


def draw_labels(size=60, wrong=0.4):
    gold = RNG.choice(LABELS[:3], size)
    return np.where(RNG.random(size) < wrong, RNG.choice(LABELS[:4], size), gold), gold  # gray is said, never wanted


@pytest.mark.parametrize("options", [LABELS, ()])
def test_it_equals_scikit_learn(options):
    output, gold = draw_labels()
    if not options:
        output = np.where(output == "gray", "red", output)
    assert mean_of(cell_of(output, gold, options)) == pytest.approx(sklearn.f1_score(gold, output, average="macro"))


def test_a_label_that_is_only_predicted_counts_and_an_unused_one_does_not():
    samples = cell_of(["red", "green", "pink", "red"], ["red", "green", "green", "red"])
    assert mean_of(samples) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert mean_of(cell_of(["red", "green"], ["red", "green"])) == 1


def test_an_output_that_names_no_label_is_missed_and_adds_none():
    gold, output = ["red", "red", "green", "green"], ["red", "I cannot tell", "green", "red or green"]
    assert mean_of(cell_of(output, gold)) == pytest.approx(
        sklearn.f1_score(gold, output, average="macro", labels=["red", "green"])
    )


def test_sentences_case_and_other_accepted_answers_are_read_as_lenient_reads_them():
    options = ("Red", "green")
    output = ["It is red.", "GREEN"]
    assert mean_of(cell_of(output, ["Red", "green"], options)) == 1
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
    output, gold = draw_labels()
    sums = MacroF1().run_level(cell_of(output, gold))
    for _ in range(5):
        again = RNG.integers(0, 60, 8)  # few: some labels are gone
        value = sums.value(np.asarray(sums.rows[again].sum(axis=0)))
        assert float(value[0]) == pytest.approx(sklearn.f1_score(gold[again], output[again], average="macro"))


def test_the_pseudo_values_are_scikit_learns_without_each_sample():
    output, gold = draw_labels()
    parts = MacroF1().run_level(cell_of(output, gold))
    without = [sklearn.f1_score(np.delete(gold, i), np.delete(output, i), average="macro") for i in range(60)]
    numbers = parts.numbers()
    assert numbers - parts.statistic == pytest.approx(59 * (np.mean(without) - np.array(without)))


def test_arms_with_other_predicted_labels_have_rows_of_the_same_shape():
    gold = ["red", "green", "blue"]
    rows = [MacroF1().run_level(cell_of(output, gold)).rows.shape for output in (gold, ["pink"] * 3)]
    assert rows[0] == rows[1]
