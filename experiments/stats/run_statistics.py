"""Statistics of metrics of a whole run (F1, an area, CIDEr): what they are made of, one arm's interval, pairs of arms.

A frame has such a metric's influence numbers as its column, and beside it `own_of(metric)`: what each sample's number
was computed from. That a column has it is how these statistics know that its values are no scores of single samples,
whatever they look like: at an F1 of exactly 1 every number is 1.

    a share           Wilson (1927) at the size n = T (1 - T) / V that the linearized variance V over clusters stands
    (F1, area, pairs) for (Dean and Pagano 2015). For F1 that is, near both ends, Wilson on F / (2 - F), which is a
                      proportion (Lam, Gopal and Qian 2023).
    a mean            bootstrap over clusters (`intervals`)
    no spread at all  no variance can be estimated. The interval ends where the statistic would be if z^2 clusters more
                      had come out as badly, or as well, as can be: for a proportion of 0 or 1 that is Wilson.
    two arms          the pairs are made first: a sample that failed in one arm has failed in both, and the numbers are
                      those of what is left. `exchange` has the test and the interval of their difference.

Several cells (seeds, pooled settings) have the mean of their statistics, by their numbers of samples.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import (
    Estimate,
    Floats,
    bootstrap_mean,
    cluster_codes,
    cluster_sums,
    normal_quantile,
    wilson,
)
from icl.metrics.base import RunLevelMetric, ScoredSample
from icl.metrics.sufficient_statistics import SufficientStatistics, mean_statistics, statistics_of

Codes = NDArray[np.intp]
Places = Sequence[int] | NDArray[np.intp]

NO_SPREAD = 1e-9
"""A standard deviation below this is none."""


def sample_ref_column(column: str) -> str:
    """The column beside a metric's: 'f1:own'."""
    return f"{column}:own"


@dataclass(frozen=True, eq=False, repr=False)
class RunStatistic:
    """A cell as a metric of a whole run reads it, and the numbers that it gives."""

    metric: RunLevelMetric
    samples: tuple[ScoredSample, ...]
    parts: Sequence[float | None]

    def without(self, places: Collection[int]) -> "RunStatistic":
        """As if these samples had failed."""
        gone = {place for place in places if self.samples[place].score is not None}
        if not gone:
            return self
        samples = tuple(replace(s, score=None) if i in gone else s for i, s in enumerate(self.samples))
        return RunStatistic(self.metric, samples, self.metric.run_level(samples))

    def only(self, places: Collection[int]) -> "RunStatistic":
        """As if all other samples had failed."""
        return self.without(set(range(len(self.samples))) - set(places))


@dataclass(frozen=True, eq=False, repr=False)
class SampleRef:
    """One sample of a cell."""

    whole: RunStatistic
    place: int

    def __repr__(self) -> str:
        """The sample's own number, which is no part of the statistic's mean: what a CSV of the frame shows."""
        score = self.whole.samples[self.place].score
        return "" if score is None else f"{score:g}"


@dataclass(frozen=True, eq=False)
class Stratum:
    """A cell of each arm on the same samples. reference, arm: [C, k] sums of each cluster; of: makes the statistic.

    weight: its share of all pairs. least, most: [k], what a cluster adds at worst and at best.
    """

    reference: Any
    arm: Any
    of: Callable[[Floats], Floats]
    weight: float
    least: Floats
    most: Floats


def estimate_run_statistic(owns: Sequence[SampleRef], values: Floats, clusters: Any, level: float = 0.95) -> Estimate:
    """Mean of the influence numbers of an arm with its interval. clusters: [n], of anything hashable."""
    codes = cluster_codes(clusters)
    cells = list(_cells(owns))
    mean, count = float(values.mean()), int(codes.max()) + 1
    variance = _variance(values, codes)
    if variance**0.5 < NO_SPREAD:
        low, high = _imagined(cells, codes, level)
    elif all(sums.share for sums, _, _ in cells):
        size = mean * (1 - mean) / variance
        low, high = wilson(mean * size, size, level)
    else:
        return bootstrap_mean(values, codes, level)
    return Estimate(mean, low, high, len(values), count)


def align_run_statistics(
    left: Sequence[SampleRef], right: Sequence[SampleRef]
) -> tuple[Floats, Floats, list[tuple[list[int], SufficientStatistics, SufficientStatistics]]]:
    """The numbers of both arms on the pairs that both have, NaN where a pair has none; then cell by cell.

    left, right: [n], pair by pair. Of a cell: its pairs that count, and what the statistic of each arm is made of.
    """
    a, b = np.full(len(left), np.nan), np.full(len(left), np.nan)
    cells: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(zip(left, right, strict=True)):
        cells.setdefault((id(pair[0].whole), id(pair[1].whole)), []).append(i)
    found = []
    for rows in cells.values():
        places = [left[i].place for i in rows], [right[i].place for i in rows]
        wholes = _agreed(left[rows[0]].whole, right[rows[0]].whole, *places)
        mine, theirs = ([whole.parts[p] for p in own] for whole, own in zip(wholes, places, strict=True))
        kept = [k for k, both in enumerate(zip(mine, theirs, strict=True)) if None not in both]
        counted = [rows[k] for k in kept]
        a[counted], b[counted] = [mine[k] for k in kept], [theirs[k] for k in kept]
        sums = [
            _picked(statistics_of(whole.parts), [own[k] for k in kept])
            for whole, own in zip(wholes, places, strict=True)
        ]
        if sums[0].rows.shape != sums[1].rows.shape:  # rows of other kinds: then their numbers are what there is
            sums = [mean_statistics(values[counted], 0.0, 1.0) for values in (a, b)]
        if counted:
            found.append((counted, sums[0], sums[1]))
    return a, b, found


def build_strata(
    cells: Sequence[tuple[Places, SufficientStatistics, SufficientStatistics]], codes: Codes
) -> list[Stratum]:
    """cells: (places among the pairs, sums of either arm); codes: [n], the cluster of each pair."""
    total, count = sum(len(rows) for rows, _, _ in cells), int(codes.max()) + 1
    found = []
    for rows, one, other in cells:
        own = codes[list(rows)]
        size = _size(one.counts | other.counts, own)
        reference, arm = (_by_cluster(sums.rows, own, count) for sums in (one, other))
        least, most = _further(one.least, other.least), _further(one.most, other.most)
        found.append(Stratum(reference, arm, one.of, len(rows) / total, size * least, size * most))
    return found


def _agreed(
    one: RunStatistic, other: RunStatistic, mine: Sequence[int], theirs: Sequence[int]
) -> tuple[RunStatistic, RunStatistic]:
    """Both cells on the pairs alone, as if what has no part in either had failed in both."""
    one, other = one.only(mine), other.only(theirs)
    gone = [(p, q) for p, q in zip(mine, theirs, strict=True) if one.parts[p] is None or other.parts[q] is None]
    return one.without([p for p, _ in gone]), other.without([q for _, q in gone])


def _cells(owns: Sequence[SampleRef]) -> Iterator[tuple[SufficientStatistics, list[int], float]]:
    """Of each cell: what its statistic is made of, the places of its samples here, and their share of all."""
    cells: dict[int, list[int]] = {}
    for i, own in enumerate(owns):
        cells.setdefault(id(own.whole), []).append(i)
    for rows in cells.values():
        sums = statistics_of(owns[rows[0]].whole.parts)
        yield _picked(sums, [owns[i].place for i in rows]), rows, len(rows) / len(owns)


def _imagined(
    cells: Sequence[tuple[SufficientStatistics, list[int], float]], codes: Codes, level: float
) -> tuple[float, float]:
    """The ends where z^2 clusters more had come out as badly, or as well, as can be."""
    z2 = normal_quantile(0.5 + level / 2) ** 2
    ends = [0.0, 0.0]
    for sums, rows, weight in cells:
        size = z2 * _size(sums.counts, codes[rows])
        for i, one in enumerate((sums.least, sums.most)):
            ends[i] += weight * float(sums.of(total_of(sums.rows) + size * one))
    return min(ends), max(ends)


def _variance(values: Floats, codes: Codes) -> float:
    """Of the mean: over clusters, and no less than over samples."""
    n, mean = len(values), float(values.mean())
    sums, sizes = cluster_sums(values, codes)
    count = len(sums)
    if count < 2:
        return 0.0
    clustered = count / (count - 1) * float(np.sum((sums - mean * sizes) ** 2)) / n**2
    return max(clustered, float(values.var()) / (n - 1))


def _size(counts: NDArray[np.bool_], codes: Codes) -> float:
    """Samples that have a say, a cluster of those that have one."""
    clusters = len(np.unique(codes[counts]))
    return float(counts.sum()) / clusters if clusters else 1.0


def _further(one: Floats, other: Floats) -> Floats:
    """Each arm's data say what can be at worst and at best: the one that adds more."""
    return max(one, other, key=lambda row: float(np.abs(row).sum()))


def _picked(sums: SufficientStatistics, places: Sequence[int]) -> SufficientStatistics:
    return replace(sums, rows=sums.rows[list(places)], counts=sums.counts[list(places)])


def _by_cluster(rows: Any, codes: Codes, count: int) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(count, len(codes))) @ rows


def total_of(rows: Any) -> Floats:
    """[k]: the sums over all rows."""
    return np.asarray(rows.sum(axis=0), dtype=np.float64).ravel()
