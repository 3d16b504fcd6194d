"""Scores of a classifier over a whole cell: the area under the ROC curve and the macro F1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import (
    Better,
    Example,
    Generation,
    RunStatistic,
    ScoredSample,
    component,
    normalize_text,
    on_scored_samples,
    scipy,
)
from icl.metrics import (
    Bools,
    Floats,
    contains_answer,
    is_correct,
    named_option,
    option_probability,
    read_yes_no,
    sum_rows,
)


@component("metric", "auc")
@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve of the positive option's probability, for questions with two options.

    As for Hateful Memes (Kiela et al., NeurIPS 2020). The area is the fraction of pairs of a positive and a negative
    sample in which the positive one has the higher score; ties count half. With `answer_mode: options` the score is the
    probability of the positive option among the options. With generated answers the score is 1, 0, or 1/2 for an output
    that is neither, so the curve has one corner.

    No released code was compared.
    """

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    positive: str = "yes"  # option of the positive class

    def score(self, generation: Generation, example: Example) -> float | None:
        options = tuple(map(normalize_text, example.options))
        if len(options) != 2 or normalize_text(self.positive) not in options:
            return None
        probability = option_probability(generation.option_scores, self.positive)
        if probability is not None:
            return probability
        option = named_option(generation.text, example.options)
        return 0.5 if option is None else float(option == normalize_text(self.positive))

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, self._parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        positive = [normalize_text(self.positive) in map(normalize_text, sample.gold) for sample in samples]
        return roc_auc([float(sample.score or 0) for sample in samples], positive)


def roc_auc(scores: Sequence[float] | Floats, is_positive: Sequence[bool] | Bools) -> RunStatistic:
    """The area under the ROC curve, ties half; undefined if a class is missing.

    The area depends on ranks alone, and two arms may use scores very differently. So ranks within an arm stand for
    scores, as Venkatraman and Begg (1996) do when they exchange the readings of two diagnostic tests. The worst and the
    best sample belong to the smaller class.

    Args:
        scores: [n].
        is_positive: [n], the class of each sample.
    """
    positive = np.asarray(is_positive, dtype=bool)
    size = len(positive)
    width = 2 * size + 1  # doubled ranks, since ties have half ranks, and one place beyond either end
    columns = np.round(2 * scipy.stats.rankdata(scores)).astype(np.intp) - 1 + np.where(positive, 0, width)
    few_positives = bool(2 * positive.sum() <= size)
    worst, best = np.zeros(2 * width), np.zeros(2 * width)
    worst[0 if few_positives else -1] = 1
    best[width - 1 if few_positives else width] = 1
    return RunStatistic(
        rows=scipy.sparse.csr_matrix((np.ones(size), (np.arange(size), columns)), shape=(size, 2 * width)),
        value=_area,
        counted=np.ones(size, dtype=bool),
        informative=positive if few_positives else ~positive,
        worst=worst,
        best=best,
        is_proportion=True,
    )


def _area(sums: Floats) -> Floats:
    """The share of (positive, negative) pairs in the right order, ties half, from counts at each rank."""
    positives, negatives = np.split(sums, 2, axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (positives * below).sum(axis=-1) / (positives.sum(axis=-1) * negatives.sum(axis=-1))
    return np.asarray(area, dtype=np.float64)


@component("metric", "macro_f1")
@dataclass(frozen=True)
class MacroF1:
    """F1 of each label that is gold or predicted, averaged with equal weights, over a whole cell.

    F1 of every label, averaged with equal weights: scikit-learn's `f1_score(gold, predicted, average="macro")`.

        F1 of a label = 2 true positives / (predicted + gold)        macro F1 = mean over the labels

    Labels are chosen as in scikit-learn: all labels that are gold or predicted somewhere in the cell. A label that is
    only predicted has F1 0 and counts. An option that is neither does not count. An output that names none of the run's
    answers predicts no label (as in scikit-learn with these `labels`): it counts as missed and adds no label.

    The predicted label is yes or no; with options, the option that the output names; otherwise the accepted answer by
    the rule of `lenient`, or another gold answer of the cell. The first accepted answer is the label.
    """

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if example.answers else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, _parts)


def _parts(samples: Sequence[ScoredSample]) -> RunStatistic:
    golds = {label: label for sample in samples for label in map(normalize_text, sample.gold[:1])}
    actual = [normalize_text(sample.gold[0]) if sample.gold else None for sample in samples]
    predicted = [_predicted_label(sample, golds) for sample in samples]
    names = dict.fromkeys(
        [*golds, "yes", "no", *(normalize_text(option) for sample in samples for option in sample.options)]
    )
    labels = {label: i for i, label in enumerate(sorted(names))}  # from the questions only, so equal for all arms
    numbers = [np.array([-1 if x is None else labels[x] for x in one], dtype=np.intp) for one in (predicted, actual)]
    return macro_f1(numbers[0], numbers[1], len(labels))


def _predicted_label(sample: ScoredSample, golds: dict[str, str]) -> str | None:
    """The normalized label that an output stands for."""
    output, gold = sample.output or "", sample.gold
    accepted = {normalize_text(answer) for answer in gold}
    if accepted <= {"yes", "no"}:
        return read_yes_no(output)
    if sample.options:
        named = named_option(output, sample.options)
        return normalize_text(gold[0]) if named in accepted else named
    return normalize_text(gold[0]) if contains_answer(output, gold) else golds.get(normalize_text(output))


def macro_f1(predicted: NDArray[np.intp], gold: NDArray[np.intp], labels: int) -> RunStatistic:
    """The mean F1 of all labels that are predicted or gold somewhere in the cell; undefined if there are none.

    A wrong answer is missed by one label and predicted for another; a correct answer is both for one label. So the
    worst and the best sample add two in all, shared evenly by the labels in the cell.

    Args:
        predicted: [n], a label's number in 0..labels-1, or -1 for no label.
        gold: [n], likewise.
        labels: The number of labels.
    """
    indices = np.arange(len(predicted))

    def one_hot(mask: Bools, columns: NDArray[np.intp]) -> Any:
        ones = np.ones(int(mask.sum()))
        return scipy.sparse.csr_matrix((ones, (indices[mask], columns[mask])), shape=(len(predicted), 2 * labels))

    correct = (predicted == gold) & (gold >= 0)
    rows = 2 * one_hot(correct, gold) + one_hot(predicted >= 0, predicted + labels) + one_hot(gold >= 0, gold + labels)
    present = sum_rows(rows)[labels:] > 0
    even = 2 * present / max(1, present.sum())
    worst = np.concatenate([np.zeros(labels), np.minimum(even, 1.0)])  # a single label has no other to be mistaken for
    return RunStatistic(
        rows=rows,
        value=_mean_f1,
        counted=np.ones(len(predicted), dtype=bool),
        informative=(predicted >= 0) | (gold >= 0),
        worst=worst,
        best=np.concatenate([even, even]),
        is_proportion=True,
    )


def _mean_f1(sums: Floats) -> Floats:
    correct, counts = np.split(sums, 2, axis=-1)
    f1 = np.divide(correct, counts, out=np.zeros(correct.shape), where=counts > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(f1.sum(axis=-1) / (counts > 0).sum(axis=-1), dtype=np.float64)
