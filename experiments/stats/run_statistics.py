"""Intervals and pairs for run-level metrics (F1, ROC AUC, CIDEr), which have one value per cell and no sample scores.

In a frame, the column of such a metric has one pseudo-value per sample: the statistic plus the influence of the sample
on it. They average to the statistic (`icl.metrics.run_level`). Next to it, the column `sample_ref_column(metric)` has
the sample and the cell of each number. The presence of that column marks a metric as run-level, because the numbers can
look like scores: at an F1 of exactly 1 every number is 1.

    proportions       For run-level proportions (F1, AUC, groups) the interval is a Wilson interval at the effective
                      sample size n = T (1 - T) / V, with V the jackknife variance over clusters and the correction
                      for few clusters (`intervals`; Dean and Pagano 2015). For F1, as F goes to 0 or 1, it approaches
                      Wilson on the Jaccard index F / (2 - F), mapped back to F. That index is a proportion (Lam, Gopal
                      and Qian 2023).
    other statistics  t standard errors of the pseudo-values over clusters on either side. The interval of a
                      difference recomputes the statistic instead, as its test does, so that both measure the same.
    no spread         No variance can be estimated. The interval ends at the statistic with z^2 more clusters of the
                      worst, or the best, samples. For a proportion of 0 or 1 this is Wilson.
    two arms          Pairs are formed first: a sample that failed in one arm counts as failed in both, and the
                      statistics are those of the remaining samples. `run_statistic_tests` compares them.

A cell is one setting under one seed. The statistic of several cells (seeds, pooled settings) is the mean of theirs,
weighted by their numbers of samples.

Where to change what: the interval of one arm is `estimate_run_statistic`, the pairs of two arms are
`align_run_statistics`, their sums per cluster are `build_strata`. `experiments.stats.arms.tidy_frame` labels the
clusters. A new metric implements `run_level` of `icl.metrics.base.RunLevelMetric`, which defines the pseudo-values and
the sums.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.exact_sums import exactly_summable
from experiments.stats.intervals import (
    Codes,
    Estimate,
    Floats,
    cluster_codes,
    cluster_sums,
    few_clusters_factor,
    mean_variance,
    normal_quantile,
    t_quantile,
    wilson,
)
from icl.metrics.base import RunLevelMetric, ScoredSample
from icl.metrics.sufficient_statistics import SufficientStatistics, mean_statistics, statistics_of, sum_rows

if TYPE_CHECKING:
    from pandas import DataFrame

Indices = Sequence[int] | NDArray[np.intp]
PairedCells = Sequence[tuple[Indices, SufficientStatistics, SufficientStatistics]]

NO_SPREAD = 1e-9
"""A standard deviation below this counts as zero."""


def sample_ref_column(column: str) -> str:
    """The column of `SampleRef` values of a run-level metric: 'f1:ref' for 'f1'."""
    return f"{column}:ref"


@dataclass(frozen=True, eq=False, repr=False)
class RunStatistic:
    """A run-level metric evaluated on one cell.

    Attributes:
        metric: The metric.
        samples: The samples of the cell.
        values: One pseudo-value per sample; None for a sample that has no part in the statistic. The metric's
            `run_level` returns a list that carries its `SufficientStatistics` (`statistics_of`).
    """

    metric: RunLevelMetric
    samples: tuple[ScoredSample, ...]
    values: Sequence[float | None]

    def without(self, indices: Collection[int]) -> "RunStatistic":
        """The statistic as if these samples had failed."""
        failures = {i for i in indices if self.samples[i].score is not None}
        if not failures:
            return self
        samples = tuple(replace(s, score=None) if i in failures else s for i, s in enumerate(self.samples))
        return RunStatistic(self.metric, samples, self.metric.run_level(samples))

    def only(self, indices: Collection[int]) -> "RunStatistic":
        """The statistic as if all other samples had failed."""
        return self.without(set(range(len(self.samples))) - set(indices))


@dataclass(frozen=True, eq=False, repr=False)
class SampleRef:
    """A link from one number of a frame to its sample, the `index`-th of `statistic.samples`. Every arm has them."""

    statistic: RunStatistic
    index: int

    def __repr__(self) -> str:
        """The sample's own score, as a CSV file of the frame shows it."""
        score = self.statistic.samples[self.index].score
        return "" if score is None else f"{score:g}"


@dataclass(frozen=True, eq=False)
class Stratum:
    """A pair of cells, one of each arm, on the same samples: the sums of their rows per cluster.

    The statistic of either arm is `value` of its summed rows (`icl.metrics.sufficient_statistics`).

    Attributes:
        reference: [C, k], the sums of the reference arm.
        arm: [C, k], the sums of the other arm.
        value: Maps sums to the statistic.
        weight: The share of all pairs that lies in these cells.
        worst: [k], the sums of a cluster of worst samples.
        best: [k], the sums of a cluster of best samples.
    """

    reference: Any
    arm: Any
    value: Callable[[Floats], Floats]
    weight: float
    worst: Floats
    best: Floats


@dataclass(frozen=True, eq=False)
class _Cell:
    """The part of a cell that lies in an arm.

    Attributes:
        statistics: Of its samples.
        rows: Their indices in the arm.
        weight: Their share of the arm.
    """

    statistics: SufficientStatistics
    rows: list[int]
    weight: float


def estimate_run_statistic(refs: Sequence[SampleRef], values: Floats, clusters: Any, level: float = 0.95) -> Estimate:
    """The run-level statistic of an arm with its interval.

    Args:
        refs: [n], the samples.
        values: [n], their pseudo-values.
        clusters: [n], any hashable labels.
        level: The confidence level.
    """
    codes = cluster_codes(clusters)
    cells = list(_cells(refs))
    statistic = float(values.mean())  # pseudo-values average to the statistic
    sums, sizes = cluster_sums(values, codes)
    variance = mean_variance(sums, sizes, float(values.var())) if len(sizes) > 1 else 0.0
    is_proportion = all(cell.statistics.is_proportion for cell in cells)
    is_extreme = is_proportion and min(statistic, 1 - statistic) < NO_SPREAD  # numbers of unequal groups still differ
    if variance**0.5 < NO_SPREAD or is_extreme:  # all clusters agree, or there is only one
        low, high = _bounds(cells, codes, normal_quantile(0.5 + level / 2) ** 2)
    elif is_proportion:
        size = statistic * (1 - statistic) / variance * few_clusters_factor(sizes, level)
        low, high = wilson(statistic * size, size, level)
    else:
        half = t_quantile(sizes, level) * variance**0.5
        low, high = statistic - half, statistic + half
        lowest, highest = _bounds(cells, codes, 1 / NO_SPREAD)
        if lowest <= statistic <= highest:  # a metric that does not name its range has that of a share
            low, high = max(low, lowest), min(high, highest)
    return Estimate(statistic, low, high, len(values), len(sizes))


def drop_scores(frame: "DataFrame", lost: NDArray[np.bool_], columns: Sequence[str]) -> "DataFrame":
    """The frame as if some of its samples had failed: they have no score, and run-level metrics leave them out.

    Args:
        frame: Samples.
        lost: [n], which of them have failed.
        columns: The columns of scores.
    """
    changed: dict[str, Any] = {}
    for column in columns:
        changed[column] = frame[column].mask(lost)
        if (name := sample_ref_column(column)) not in frame:
            continue
        refs: list[SampleRef | None] = frame[name].tolist()
        failed: dict[int, list[int]] = {}
        for ref, is_lost in zip(refs, lost, strict=True):
            if ref is not None and is_lost:
                failed.setdefault(id(ref.statistic), []).append(ref.index)
        statistics = {id(ref.statistic): ref.statistic for ref in refs if ref is not None}
        recomputed = {key: one.without(failed.get(key, ())) for key, one in statistics.items()}
        objects = np.empty(len(refs), dtype=object)
        objects[:] = [ref and SampleRef(recomputed[id(ref.statistic)], ref.index) for ref in refs]
        numbers = [ref.statistic.values[ref.index] if ref else None for ref in objects]
        changed |= {name: objects, column: np.array(numbers, dtype=np.float64)}
    return frame.assign(**changed)


def align_run_statistics(
    left: Sequence[SampleRef], right: Sequence[SampleRef]
) -> tuple[Floats, Floats, list[tuple[list[int], SufficientStatistics, SufficientStatistics]]]:
    """The pseudo-values of two arms on the samples that count in both.

    Args:
        left: [n], the samples of the reference arm, pair by pair.
        right: [n], the samples of the other arm.

    Returns:
        [n] pseudo-values of either arm, NaN where a pair does not count. Then, for each pair of cells, the indices of
        its pairs that count and the statistics of either arm on them.
    """
    left_values, right_values = np.full(len(left), np.nan), np.full(len(left), np.nan)
    pairs_by_cells: dict[tuple[int, int], list[int]] = {}
    for i, (left_ref, right_ref) in enumerate(zip(left, right, strict=True)):
        pairs_by_cells.setdefault((id(left_ref.statistic), id(right_ref.statistic)), []).append(i)
    cells = []
    for pairs in pairs_by_cells.values():
        left_indices, right_indices = [left[i].index for i in pairs], [right[i].index for i in pairs]
        left_statistic, right_statistic = _on_common_samples(
            left[pairs[0]].statistic, right[pairs[0]].statistic, left_indices, right_indices
        )
        numbers = zip(
            (left_statistic.values[k] for k in left_indices),
            (right_statistic.values[k] for k in right_indices),
            strict=True,
        )
        valid = [k for k, pair in enumerate(numbers) if None not in pair]
        counted = [pairs[k] for k in valid]
        left_indices, right_indices = [left_indices[k] for k in valid], [right_indices[k] for k in valid]
        left_values[counted] = [left_statistic.values[k] for k in left_indices]
        right_values[counted] = [right_statistic.values[k] for k in right_indices]
        reference = _select(statistics_of(left_statistic.values), left_indices)
        arm = _select(statistics_of(right_statistic.values), right_indices)
        if not _have_equal_sums(left_statistic, right_statistic, reference, arm):
            reference, arm = (mean_statistics(values[counted], 0.0, 1.0) for values in (left_values, right_values))
        if counted:
            cells.append((counted, reference, arm))
    return left_values, right_values, cells


def build_strata(cells: PairedCells, codes: Codes) -> list[Stratum]:
    """One stratum per pair of cells.

    Args:
        cells: (indices of the pairs, statistics of the reference, statistics of the arm) of each.
        codes: [n], the cluster of each pair, in 0..C-1.
    """
    total, count = sum(len(rows) for rows, _, _ in cells), int(codes.max()) + 1
    strata = []
    for rows, reference, arm in cells:
        cell_codes = codes[list(rows)]
        # A sample counts if it can move either arm. An added cluster has the average number of such samples.
        size = _informative_per_cluster(reference.informative | arm.informative, cell_codes)
        left, right = _exact(*(_sum_by_cluster(side.rows, cell_codes, count) for side in (reference, arm)))
        worst, best = _larger(reference.worst, arm.worst), _larger(reference.best, arm.best)
        strata.append(Stratum(left, right, reference.value, len(rows) / total, size * worst, size * best))
    return strata


def _on_common_samples(
    left: RunStatistic, right: RunStatistic, left_indices: Sequence[int], right_indices: Sequence[int]
) -> tuple[RunStatistic, RunStatistic]:
    """Both statistics on the paired samples alone, as if a sample without a part in either had failed in both."""
    left, right = left.only(left_indices), right.only(right_indices)
    failures = [
        (i, k)
        for i, k in zip(left_indices, right_indices, strict=True)
        if left.values[i] is None or right.values[k] is None
    ]
    return left.without([i for i, _ in failures]), right.without([k for _, k in failures])


def _have_equal_sums(
    left: RunStatistic, right: RunStatistic, reference: SufficientStatistics, arm: SufficientStatistics
) -> bool:
    """Whether one `value` maps the sums of both arms. Different metrics share only their pseudo-values.

    The names of the classes are compared, since a metric from a file has another class in each run that is loaded.
    """
    names = {type(statistic.metric).__qualname__ for statistic in (left, right)}
    return len(names) == 1 and reference.rows.shape == arm.rows.shape


def _cells(refs: Sequence[SampleRef]) -> Iterator[_Cell]:
    rows_by_cell: dict[int, list[int]] = {}
    for i, ref in enumerate(refs):
        rows_by_cell.setdefault(id(ref.statistic), []).append(i)
    for rows in rows_by_cell.values():
        statistics = statistics_of(refs[rows[0]].statistic.values)
        yield _Cell(_select(statistics, [refs[i].index for i in rows]), rows, len(rows) / len(refs))


def _bounds(cells: Sequence[_Cell], codes: Codes, clusters: float) -> tuple[float, float]:
    """The statistic with so many more clusters of the worst samples, and of the best."""
    ends = [0.0, 0.0]
    for cell in cells:
        statistics = cell.statistics
        size = clusters * _informative_per_cluster(statistics.informative, codes[cell.rows])
        for i, extreme in enumerate((statistics.worst, statistics.best)):
            ends[i] += cell.weight * float(statistics.value(sum_rows(statistics.rows) + size * extreme))
    return min(ends), max(ends)


def _informative_per_cluster(informative: NDArray[np.bool_], codes: Codes) -> float:
    """The average number of samples that can move the statistic, over the clusters that have any."""
    clusters = len(np.unique(codes[informative]))
    return float(informative.sum()) / clusters if clusters else 1.0


def _larger(reference: Floats, arm: Floats) -> Floats:
    """The worst (or best) row of the arm whose row adds more, which gives the wider interval.

    Both arms get it, since an interval end adds worst rows to one arm and best rows to the other. So the worst and the
    best row of a stratum may come from different arms.
    """
    return max(reference, arm, key=lambda row: float(np.abs(row).sum()))


def _select(statistics: SufficientStatistics, indices: Sequence[int]) -> SufficientStatistics:
    chosen = list(indices)
    return replace(statistics, rows=statistics.rows[chosen], informative=statistics.informative[chosen])


def _sum_by_cluster(rows: Any, codes: Codes, count: int) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(count, len(codes))) @ rows


def _exact(reference: Any, arm: Any) -> tuple[Any, Any]:
    """The sums of two arms on one grid (`exact_sums`). Sparse sums are counts, which are exact."""
    if not isinstance(reference, np.ndarray):
        return reference, arm
    left, right = np.split(exactly_summable(np.concatenate([reference, arm]), 2 * len(arm)), 2)
    return left, right
