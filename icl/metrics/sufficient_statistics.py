"""Run-level statistics as functions of sums, so that they can be computed for any choice of samples.

Each sample adds one row of numbers, and the statistic is a function of the sums of these rows:

    ratio of sums    rows (a, b)                                      sum a / sum b
    mean             rows (value, 1)                                  sum of values / number of values
    area under ROC   one-hot rows: the rank of the sample's score,    the area of these counts
                     in one block of columns per class
    macro F1         rows (2 correct, predicted + gold) per label     mean of the labels' ratios

A bootstrap weights the rows, a randomization test swaps the rows of two arms, and a bound adds rows of worst or best
samples. All three then cost one matrix product, instead of one call of the metric for each of 10,000 resamples.

The area depends on ranks alone, and two arms may use scores very differently. Ranks within an arm therefore stand for
scores, as Venkatraman and Begg (1996) do when they exchange the readings of two diagnostic tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = Any
"""[n, k]: an array or a sparse matrix."""


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """The sums of each sample of a cell from which a run-level statistic is computed.

    Attributes:
        rows: [n, k], what each sample adds to the sums.
        value: Maps sums [..., k] to the statistic [...]; NaN where it is undefined.
        gradient: Maps the sums [k] of a cell to the derivative of `value` there, [k].
        informative: [n], whether the sample changes the statistic at all (for a recall: whether it is a positive).
        worst: [k], the row of one sample that lowers the statistic as far as one sample can.
        best: [k], the row of one sample that raises the statistic as far as one sample can.
        is_proportion: Whether the statistic is a share of something, in [0, 1].
    """

    rows: Rows
    value: Callable[[Floats], Floats]
    gradient: Callable[[Floats], Floats]
    informative: Bools
    worst: Floats
    best: Floats
    is_proportion: bool

    def pseudo_values(self) -> Floats | None:
        """[n] numbers T + n dT/d(weight of the sample), which average to the statistic T; None if T is undefined.

        This is the infinitesimal jackknife (Efron and Tibshirani 1993, ch. 21). Every `value` is unchanged when all
        sums are scaled alike, so the derivatives sum to 0.
        """
        total = sum_rows(self.rows)
        statistic = float(self.value(total))
        if np.isnan(statistic):
            return None
        return np.asarray(statistic + self.rows.shape[0] * (self.rows @ self.gradient(total)), dtype=np.float64)

    def at(self, indices: Sequence[int], size: int) -> "SufficientStatistics":
        """The same statistic of `size` samples: those at `indices` have these rows, the others add nothing."""
        from scipy.sparse import csr_matrix

        where = np.asarray(indices, dtype=np.intp)
        placement = csr_matrix((np.ones(len(where)), (where, np.arange(len(where)))), shape=(size, len(where)))
        informative = np.zeros(size, dtype=bool)
        informative[where] = self.informative
        return replace(self, rows=placement @ self.rows, informative=informative)


class RunLevelValues(list[float | None]):
    """One number per sample that averages to the statistic of the cell, with the statistic itself."""

    def __init__(self, values: Sequence[float | None], statistics: SufficientStatistics) -> None:
        super().__init__(values)
        self.statistics = statistics


def statistics_of(values: Sequence[float | None]) -> SufficientStatistics:
    """The statistic behind the numbers of a metric. Plain numbers are scores in [0, 1] whose mean it is."""
    if isinstance(values, RunLevelValues):
        return values.statistics
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    mean = float(np.nanmean(numbers)) if np.isfinite(numbers).any() else 0.0
    return mean_statistics(numbers, min(0.0, mean), max(1.0, mean))


def ratio_statistics(
    numerators: Floats, denominators: Floats, worst: ArrayLike | None = None, best: ArrayLike | None = None
) -> SufficientStatistics:
    """Statistics of sum(numerators) / sum(denominators).

    Args:
        numerators: [n].
        denominators: [n], 0 for a sample without influence.
        worst: (numerator, denominator) of the worst sample. By default 0 of an average nonzero denominator.
        best: The same of the best sample. By default all of an average nonzero denominator.
    """
    informative = denominators != 0
    usual = float(denominators[informative].mean()) if informative.any() else 1.0
    return SufficientStatistics(
        rows=np.stack([numerators, denominators], axis=1),
        value=_quotient,
        gradient=_quotient_gradient,
        informative=informative,
        worst=np.asarray((0.0, usual) if worst is None else worst, dtype=np.float64),
        best=np.asarray((usual, usual) if best is None else best, dtype=np.float64),
        is_proportion=bool(np.all((numerators >= 0) & (numerators <= denominators))),
    )


def mean_statistics(values: Floats, low: float, high: float) -> SufficientStatistics:
    """Statistics of the mean of all values that are not NaN.

    Args:
        values: [n], NaN for a sample without a value.
        low: The lowest possible value.
        high: The highest possible value.
    """
    informative = np.isfinite(values)
    return SufficientStatistics(
        rows=np.stack([np.where(informative, values, 0.0), informative.astype(np.float64)], axis=1),
        value=_quotient,
        gradient=_quotient_gradient,
        informative=informative,
        worst=np.array([low, 1.0]),
        best=np.array([high, 1.0]),
        is_proportion=False,
    )


def roc_auc_statistics(scores: Floats, is_positive: Bools) -> SufficientStatistics:
    """Statistics of the area under the ROC curve. Its worst and best samples are of the smaller class.

    Args:
        scores: [n].
        is_positive: [n], the class of each sample.
    """
    from scipy.sparse import csr_matrix
    from scipy.stats import rankdata

    size = len(scores)
    width = 2 * size + 1  # doubled ranks, since ties have half ranks, and one place beyond either end
    columns = np.round(2 * rankdata(scores)).astype(np.intp) - 1 + np.where(is_positive, 0, width)
    few_positives = bool(2 * is_positive.sum() <= size)
    worst, best = np.zeros(2 * width), np.zeros(2 * width)
    worst[0 if few_positives else -1] = 1
    best[width - 1 if few_positives else width] = 1
    return SufficientStatistics(
        rows=csr_matrix((np.ones(size), (np.arange(size), columns)), shape=(size, 2 * width)),
        value=_area,
        gradient=_area_gradient,
        informative=is_positive if few_positives else ~is_positive,
        worst=worst,
        best=best,
        is_proportion=True,
    )


def macro_f1_statistics(predicted: NDArray[np.intp], gold: NDArray[np.intp], labels: int) -> SufficientStatistics:
    """Statistics of the mean F1 of all labels that are predicted or gold somewhere in the cell.

    A wrong answer is missed by one label and predicted for another; a correct answer is both for one label. So the
    worst and the best sample add two in all, shared evenly by the labels in the cell.

    Args:
        predicted: [n], a label's number in 0..labels-1, or -1 for no label.
        gold: [n], likewise.
        labels: The number of labels.
    """
    from scipy.sparse import csr_matrix

    indices = np.arange(len(predicted))

    def one_hot(mask: Bools, columns: NDArray[np.intp]) -> Any:
        ones = np.ones(int(mask.sum()))
        return csr_matrix((ones, (indices[mask], columns[mask])), shape=(len(predicted), 2 * labels))

    correct = (predicted == gold) & (gold >= 0)
    rows = 2 * one_hot(correct, gold) + one_hot(predicted >= 0, predicted + labels) + one_hot(gold >= 0, gold + labels)
    present = sum_rows(rows)[labels:] > 0
    even = 2 * present / max(1, present.sum())
    worst = np.concatenate([np.zeros(labels), np.minimum(even, 1.0)])  # a single label has no other to be mistaken for
    return SufficientStatistics(
        rows=rows,
        value=_macro_f1,
        gradient=_macro_f1_gradient,
        informative=(predicted >= 0) | (gold >= 0),
        worst=worst,
        best=np.concatenate([even, even]),
        is_proportion=True,
    )


def sum_rows(rows: Rows) -> Floats:
    """[k]: the sums over all rows."""
    return np.asarray(rows.sum(axis=0), dtype=np.float64).ravel()


def numeric_gradient(value: Callable[[Floats], Floats], total: Floats) -> Floats:
    """[k]: the derivative of a statistic at sums [k], by central differences."""
    steps = np.diag(1e-6 * np.maximum(1.0, np.abs(total)))
    return np.asarray((value(total + steps) - value(total - steps)) / (2 * np.diag(steps)), dtype=np.float64)


def _quotient(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def _quotient_gradient(total: Floats) -> Floats:
    numerator, denominator = total
    return np.asarray(np.array([1.0, -numerator / denominator]) / denominator, dtype=np.float64)


def _macro_f1(sums: Floats) -> Floats:
    correct, counts = np.split(sums, 2, axis=-1)
    f1 = np.divide(correct, counts, out=np.zeros(correct.shape), where=counts > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(f1.sum(axis=-1) / (counts > 0).sum(axis=-1), dtype=np.float64)


def _macro_f1_gradient(total: Floats) -> Floats:
    correct, counts = np.split(total, 2)
    present = counts > 0
    inverse = np.divide(1.0, counts, out=np.zeros(len(counts)), where=present)
    f1 = np.divide(correct, counts, out=np.zeros(len(counts)), where=present)
    return np.asarray(np.concatenate([inverse, -f1 * inverse]) / present.sum(), dtype=np.float64)


def _area(sums: Floats) -> Floats:
    """The share of (positive, negative) pairs in the right order, ties half, from counts at each rank."""
    positives, negatives = np.split(sums, 2, axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (positives * below).sum(axis=-1) / (positives.sum(axis=-1) * negatives.sum(axis=-1))
    return np.asarray(area, dtype=np.float64)


def _area_gradient(total: Floats) -> Floats:
    """(placement - area) / size of the class, at each rank of either class (DeLong et al. 1988)."""
    positives, negatives = np.split(total, 2)
    below = (np.cumsum(negatives) - negatives / 2) / negatives.sum()
    above = 1 - (np.cumsum(positives) - positives / 2) / positives.sum()
    area = float(_area(total))
    return np.concatenate([(below - area) / positives.sum(), (above - area) / negatives.sum()])
