"""The probe against its own optimum, and what texts change."""

import numpy as np
import pytest

from experiments.analyses.linear_probe import DECAY, SCALE, cross_validated, fit_probe
from icl.errors import PlanError
from retrievers.base import normalize_rows


def test_it_separates_and_its_gradient_vanishes() -> None:
    rng = np.random.default_rng(0)
    rows = normalize_rows(np.vstack([rng.normal(c, 0.3, (20, 3)) for c in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]))
    labels = [name for name in "abc" for _ in range(20)]
    probe = fit_probe(rows, labels)
    assert np.mean(np.array(probe.predict(rows)) == labels) > 0.9
    wrong = probe.probabilities(rows) - np.equal.outer(labels, list(probe.labels))
    slope = SCALE * wrong.T @ rows / len(rows) + 2 * DECAY * probe.weights
    assert np.abs(slope).max() < 0.02
    assert np.array_equal(fit_probe(rows, labels).weights, probe.weights)


def test_texts_weigh_half_whatever_their_number() -> None:
    """One text per class contradicts ninety images per class: both groups have equal weight in the boundary."""
    images = normalize_rows(np.array([[1, 0.2]] * 45 + [[1, -0.2]] * 45))
    labels = ["a"] * 45 + ["b"] * 45
    texts = normalize_rows(np.array([[0.2, -1.0], [0.2, 1.0]]))
    few = fit_probe(images, labels, texts, ["a", "b"])
    many = fit_probe(images, labels, np.repeat(texts, 30, axis=0), ["a"] * 30 + ["b"] * 30)
    assert np.allclose(few.weights, many.weights, atol=1e-3)
    alone = fit_probe(images, labels)
    assert alone.predict(texts) == ["b", "a"]
    assert few.predict(texts) == ["a", "b"]


def test_few_rows_are_solved_in_their_span_and_give_the_same_probe() -> None:
    """Repeated rows make more rows than entries, and do not change the means."""
    rng = np.random.default_rng(1)
    rows, labels = normalize_rows(rng.normal(size=(6, 9))), ["a", "b", "c"] * 2
    few, many = fit_probe(rows, labels), fit_probe(np.repeat(rows, 3, axis=0), list(np.repeat(labels, 3)))
    test_rows = normalize_rows(rng.normal(size=(40, 9)))
    assert few.weights.shape == (3, 9)
    assert few.predict(test_rows) == many.predict(test_rows)
    assert np.allclose(few.weights, many.weights, atol=0.02 * np.abs(many.weights).max())


def test_data_that_cannot_be_learned_is_an_error() -> None:
    rows = np.eye(2, dtype=np.float32)
    with pytest.raises(PlanError, match="two labels or more"):
        fit_probe(rows, ["a", "a"])
    with pytest.raises(PlanError, match=r"texts of \['c'\] and no image"):
        fit_probe(rows, ["a", "b"], rows, ["a", "c"])


def test_a_fold_is_predicted_by_a_probe_on_the_others() -> None:
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(c, 0.4, (12, 3)) for c in ([1, 0, 0], [0, 1, 0])])
    labels, folds = [name for name in "ab" for _ in range(12)], list(range(4)) * 6
    predicted = cross_validated(rows, labels, folds)
    assert np.mean(np.array(predicted) == labels) > 0.8
    others = [i for i in range(24) if folds[i] != 2]
    center = rows[others].mean(axis=0)
    probe = fit_probe(normalize_rows(rows[others] - center), [labels[i] for i in others])
    own = [i for i in range(24) if folds[i] == 2]
    assert [predicted[i] for i in own] == probe.predict(normalize_rows(rows[own] - center))
    changed = ["b" if folds[i] == 2 else labels[i] for i in range(24)]
    again = cross_validated(rows, changed, folds)
    assert [again[i] for i in own] == [predicted[i] for i in own], "its own labels do not matter"
    assert cross_validated(3 * rows + 50, labels, folds) == predicted
