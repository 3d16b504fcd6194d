"""What a statistic of a whole run is made of: a row a sample, whose sums give the statistic, for any choice of samples.

The influence numbers of `icl.metrics.run_level` say how a statistic moves near the data that were seen. Tests and
bounds want it on other data: with the answers of two arms exchanged, with clusters drawn anew, with samples that are
as bad as can be. For that each statistic is a function of sums of rows:

    ratio of sums    rows (a, b),                                   sum a / sum b
    mean             rows (value, 1)                                sum value / number
    area under ROC   rows with one 1, at the sample's rank among    the area of these counts
                     its arm's scores, apart for both classes
    mean of F1       rows (2 right, said + wanted) of each label,   mean of their ratios where there is any

The area depends on ranks alone, and two arms may use scores very differently, so ranks stand for them (Venkatraman and
Begg 1996, for exchanging the readings of two tests).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Rows = Any
"""[n, k], an array or a sparse matrix."""


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """rows: [n, k], what each sample adds. of: sums [..., k] -> the statistic [...], NaN where there is none.

    counts: [n], the samples that have a say. least, most: [k], what a sample adds that moves the statistic down or up
    as far as one can. share: the statistic is a share of something, in [0, 1].
    """

    rows: Rows
    of: Callable[[Floats], Floats]
    counts: NDArray[np.bool_]
    least: Floats
    most: Floats
    share: bool

    def spread(self, places: Sequence[int], size: int) -> "SufficientStatistics":
        """The same of `size` samples, of which those at `places` add these rows and the others nothing."""
        from scipy.sparse import csr_matrix

        where = np.asarray(places, dtype=np.intp)
        chosen = csr_matrix((np.ones(len(where)), (where, np.arange(len(where)))), shape=(size, len(where)))
        counts = np.zeros(size, dtype=bool)
        counts[where] = self.counts
        return replace(self, rows=chosen @ self.rows, counts=counts)


class RunLevelValues(list[float | None]):
    """Influence numbers that know what their statistic is made of."""

    def __init__(self, parts: Sequence[float | None], sums: SufficientStatistics) -> None:
        super().__init__(parts)
        self.sums = sums


def statistics_of(parts: Sequence[float | None]) -> SufficientStatistics:
    """What the numbers say of themselves; of plain ones, that their statistic is their mean and lies in [0, 1]."""
    if isinstance(parts, RunLevelValues):
        return parts.sums
    told = np.array([np.nan if part is None else part for part in parts], dtype=np.float64)
    mean = float(np.nanmean(told)) if np.isfinite(told).any() else 0.0
    return mean_statistics(told, min(0.0, mean), max(1.0, mean))


def ratio_statistics(
    over: Floats, under: Floats, least: ArrayLike | None = None, most: ArrayLike | None = None
) -> SufficientStatistics:
    """Of sum(over) / sum(under). least, most: (over, under) of one sample; else 0 and all of a usual `under`."""
    counts = under != 0
    usual = float(under[counts].mean()) if counts.any() else 1.0
    return SufficientStatistics(
        np.stack([over, under], axis=1),
        _quotient,
        counts,
        np.asarray((0.0, usual) if least is None else least, dtype=np.float64),
        np.asarray((usual, usual) if most is None else most, dtype=np.float64),
        bool(np.all((over >= 0) & (over <= under))),
    )


def mean_statistics(values: Floats, least: float, most: float) -> SufficientStatistics:
    """Of the mean of the values that are no NaN. least, most: the bounds of a value."""
    told = np.isfinite(values)
    rows = np.stack([np.where(told, values, 0.0), told.astype(np.float64)], axis=1)
    return SufficientStatistics(rows, _quotient, told, np.array([least, 1.0]), np.array([most, 1.0]), share=False)


def roc_auc_statistics(scores: Floats, positive: NDArray[np.bool_]) -> SufficientStatistics:
    """Of the area under the ROC curve. The least and the most of a sample are those of the class with fewer samples."""
    from scipy.sparse import csr_matrix
    from scipy.stats import rankdata

    size = len(scores)
    places = 2 * size + 1  # twice the ranks, which halve where scores tie, and a place beyond each end
    columns = np.round(2 * rankdata(scores)).astype(np.intp) - 1 + np.where(positive, 0, places)
    rows = csr_matrix((np.ones(size), (np.arange(size), columns)), shape=(size, 2 * places))
    fewer = bool(2 * positive.sum() <= size)
    bottom, top = np.zeros(2 * places), np.zeros(2 * places)
    bottom[0 if fewer else -1] = 1
    top[places - 1 if fewer else places] = 1
    return SufficientStatistics(rows, _area, positive if fewer else ~positive, bottom, top, share=True)


def macro_f1_statistics(said: NDArray[np.intp], wanted: NDArray[np.intp], labels: int) -> SufficientStatistics:
    """Of the mean F1 of the labels that are said or wanted. said, wanted: [n], below `labels`, or -1 for none.

    A wrong answer is missed by one label and said of another, a right one is both of one: at worst and at best a sample
    adds two in all, shared alike by the labels that there are.
    """
    from scipy.sparse import csr_matrix

    places = np.arange(len(said))

    def ones(rows: NDArray[np.bool_], columns: NDArray[np.intp]) -> Any:
        return csr_matrix((np.ones(rows.sum()), (places[rows], columns[rows])), shape=(len(said), 2 * labels))

    right = (said == wanted) & (wanted >= 0)
    rows = 2 * ones(right, wanted) + ones(said >= 0, said + labels) + ones(wanted >= 0, wanted + labels)
    there = np.asarray(rows[:, labels:].sum(axis=0)).ravel() > 0
    alike = 2 * there / max(1, there.sum())
    least = np.concatenate([np.zeros(labels), np.minimum(alike, 1.0)])  # with one label there is no other to say
    return SufficientStatistics(
        rows, _macro, (said >= 0) | (wanted >= 0), least, np.concatenate([alike, alike]), share=True
    )


def _macro(sums: Floats) -> Floats:
    right, under = np.split(sums, 2, axis=-1)
    shares = np.divide(right, under, out=np.zeros(right.shape), where=under > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shares.sum(axis=-1) / (under > 0).sum(axis=-1), dtype=np.float64)


def _quotient(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def _area(sums: Floats) -> Floats:
    """Of counts at each place, the positive class first: the share of pairs in order, ties half."""
    positive, negative = np.split(sums, 2, axis=-1)
    below = np.cumsum(negative, axis=-1) - negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (positive * below).sum(axis=-1) / (positive.sum(axis=-1) * negative.sum(axis=-1))
    return np.asarray(found, dtype=np.float64)
