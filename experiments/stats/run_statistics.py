"""Run-level metrics (F1, ROC AUC, CIDEr), which have one value per cell: their columns in a frame, and intervals.

A cell is one setting under one seed; an arm is one or more cells, usually one setting under all seeds. Samples of one
cluster are not independent, such as questions about one image.

A metric's `run_level` maps the samples of a cell to a `RunStatistic`
(`icl.metrics.run_level`), which can compute the statistic T on any subset of them. The statistic of several cells
(seeds, pooled settings) is the mean of their statistics, weighted by their numbers of samples.

    frame       The column of the metric has one number per sample, and their mean in a cell is T. For a mean of scores
                (CIDEr) these are the scores. For others they are jackknife pseudo-values (`pseudo_values`): T plus the
                scaled difference between T and the statistic without the sample. The column SAMPLE numbers the samples.
                `frame.attrs[RUN_LEVEL]` is a `RunLevelColumns`, which maps each such column to its `RunLevelScores`:
                the metric and its samples.
    one arm     `estimate_run_statistic`: V is the variance of the mean of these numbers, with samples of a cluster
                taken together. Proportions (F1, AUC, groups) have Wilson's interval at the effective sample size
                T (1 - T) / V (`intervals`; Dean and Pagano 2015), times (z / t)^2 if a cluster has several
                samples that can change T, such as the positives of a recall. Others have T +- t sqrt(V), within the
                range of the metric. The degrees of freedom of t are the effective number of clusters with such
                samples, minus 1.
    no spread   Three cases: V is 0, there is one cluster, or a proportion is exactly 0 or 1. To get each end, add z^2
                clusters of the worst (or best) samples and compute T again; z is 1.96 at 95 %. For a proportion of
                0 or 1 this is Wilson.
    two arms    p and the interval of a difference come from exchanging clusters of two arms (`exchanges`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import (
    Codes,
    Estimate,
    Floats,
    cluster_codes,
    cluster_sums,
    interval_of_mean,
    mean_variance,
    normal_quantile,
    wilson,
)
from icl import ConfigError, DataFrame, RunStatistic, ScoredSample
from icl.metrics.run_level import RunLevelMetric, run_statistic, sum_rows

Indices = NDArray[np.intp]

RUN_LEVEL = "run_level"
"""The key of a frame's `attrs` with its `RunLevelColumns`."""
SAMPLE = "sample:number"
"""The column of a frame with the number of each sample in its `RunLevelScores`. No data have such a column."""
NO_SPREAD = 1e-9
"""A standard error, a distance from 0 or 1, or the width of an interval below this counts as zero."""
OVERWHELMING = 1e9
"""With this many added clusters the data no longer matter: the statistic is that of the added ones."""


class SharedAttrs(dict[str, Any]):
    """A mapping for a frame's `attrs` that is not copied: pandas deep-copies `attrs` in every operation."""

    def __deepcopy__(self, memo: Any) -> "SharedAttrs":
        return self


@dataclass(frozen=True, eq=False)
class RunLevelScores:
    """What a run-level metric reads: the samples of a run.

    Attributes:
        metric: The metric.
        samples: [N], the samples.
        cells: [N], the number of each sample's cell; -1 for a sample that is left out.
    """

    metric: RunLevelMetric
    samples: Sequence[ScoredSample]
    cells: Codes
    _cache: dict[int, RunStatistic] = field(default_factory=dict, init=False, repr=False)

    def numbers(self) -> Floats:
        """[N] numbers that average to the statistic of each cell; NaN for a sample without a part in it."""
        numbers = np.full(len(self.samples), np.nan)
        for cell, members in self._members.items():
            if cell >= 0:
                numbers[members] = self._statistic_of_cell(cell).numbers()
        return numbers

    def statistic_of(self, sample_indices: Indices) -> RunStatistic:
        """The statistic of some samples of one cell. The cell's other samples count as failed."""
        cell = int(self.cells[sample_indices[0]])
        members = self._members[cell]
        samples = [self.samples[i] for i in members]
        lost = [i for i in np.flatnonzero(~np.isin(members, sample_indices)) if samples[i].score is not None]
        for i in lost:
            samples[i] = replace(samples[i], score=None)
        statistic = self._statistic(samples) if lost else self._statistic_of_cell(cell)
        return statistic.select(np.searchsorted(members, sample_indices))

    def without(self, sample_indices: Iterable[int]) -> "RunLevelScores":
        """The scores as if these samples had failed."""
        samples = list(self.samples)
        for i in sample_indices:
            samples[i] = replace(samples[i], score=None)
        return RunLevelScores(self.metric, samples, self.cells)

    @cached_property
    def _members(self) -> dict[int, Indices]:
        return {int(cell): np.flatnonzero(self.cells == cell) for cell in np.unique(self.cells)}

    def _statistic_of_cell(self, cell: int) -> RunStatistic:
        if cell not in self._cache:
            self._cache[cell] = self._statistic([self.samples[i] for i in self._members[cell]])
        return self._cache[cell]

    def _statistic(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        statistic = run_statistic(self.metric.run_level(samples))
        if (count := len(statistic.counted)) != len(samples):
            raise ConfigError(f"{type(self.metric).__name__} gives {count} numbers for {len(samples)} samples.")
        return statistic


class RunLevelColumns(list[str]):
    """The names of a frame's run-level columns with their scores, which are not written when a frame is saved."""

    def __init__(self, scores: Mapping[str, RunLevelScores]) -> None:
        super().__init__(scores)
        self.scores = dict(scores)

    def __deepcopy__(self, memo: Any) -> "RunLevelColumns":
        return self

    def __eq__(self, other: object) -> bool:
        return self is other  # frames of two runs must not be joined as if they had one list of samples

    __hash__ = None


# frames


def add_run_level(frame: DataFrame, columns: Mapping[str, RunLevelScores]) -> DataFrame:
    """The frame, which has SAMPLE, with these run-level columns."""
    changed = frame.assign(**{name: scores.numbers()[frame[SAMPLE]] for name, scores in columns.items()})
    if columns:
        before = frame.attrs.get(RUN_LEVEL)
        scores = before.scores if isinstance(before, RunLevelColumns) else {}
        changed.attrs[RUN_LEVEL] = RunLevelColumns({**scores, **columns})
    return changed


def copy_scores(frame: DataFrame, names: Mapping[str, str]) -> DataFrame:
    """The frame with columns of scores under further names: new name -> column."""
    run_level = run_level_columns(frame)
    copied = frame.assign(**{new: frame[old] for new, old in names.items()})
    changed = {new: run_level[old] for new, old in names.items() if old in run_level}
    if run_level:
        copied.attrs[RUN_LEVEL] = RunLevelColumns({**run_level, **changed})
    return copied


def run_level_columns(frame: DataFrame) -> Mapping[str, RunLevelScores]:
    """The run-level columns of a frame."""
    columns = frame.attrs.get(RUN_LEVEL)
    if not isinstance(columns, RunLevelColumns):
        if SAMPLE in frame:
            raise ValueError(f"the frame has lost its attrs, which say what the samples of column '{SAMPLE}' are.")
        return {}
    return {name: scores for name, scores in columns.scores.items() if name in frame}


def is_run_level(frame: DataFrame, column: str) -> bool:
    """Whether a column has a run-level metric; its numbers are not scores of samples."""
    return column in run_level_columns(frame)


def drop_scores(frame: DataFrame, lost: NDArray[np.bool_], columns: Sequence[str]) -> DataFrame:
    """The frame as if some of its samples had failed: they have no score, and run-level metrics leave them out.

    Args:
        frame: Samples.
        lost: [n], which of them have failed.
        columns: The columns of scores.
    """
    run_level = run_level_columns(frame)
    masked = frame.assign(**{column: frame[column].mask(lost) for column in columns})
    changed = {name: run_level[name].without(frame[SAMPLE][lost]) for name in columns if name in run_level}
    return add_run_level(masked, changed)


def repeat_samples(frame: DataFrame, rows: Indices) -> DataFrame:
    """The frame with these rows. Copies of a row have numbers of their own, but the same query and group.

    Args:
        frame: Samples.
        rows: [n], positions; a row may be there several times, once for each part that it belongs to.
    """
    repeated = frame.iloc[rows].reset_index(drop=True)
    if run_level := run_level_columns(frame):
        old = repeated[SAMPLE].to_numpy()
        repeated[SAMPLE] = np.arange(len(old))
        repeated.attrs[RUN_LEVEL] = RunLevelColumns(
            {
                name: RunLevelScores(scores.metric, [scores.samples[i] for i in old], scores.cells[old])
                for name, scores in run_level.items()
            }
        )
    return repeated


def within_parts(frame: DataFrame, parts: Codes) -> dict[str, RunLevelScores]:
    """The run-level columns of a frame, computed within parts of their cells. parts: [n], the part of each sample."""
    changed = {}
    for name, scores in run_level_columns(frame).items():
        cells = np.full(len(scores.samples), -1)
        both = np.stack([scores.cells[frame[SAMPLE]], parts], axis=1)
        cells[frame[SAMPLE]] = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        changed[name] = RunLevelScores(scores.metric, scores.samples, cells)
    return changed


# one arm


def cells_of_rows(scores: RunLevelScores, sample_indices: Indices) -> Iterator[tuple[Indices, RunStatistic]]:
    """For each cell of an arm: the places of its samples in `sample_indices`, and its statistic on them."""
    for cell in np.unique(scores.cells[sample_indices]):
        places = np.flatnonzero(scores.cells[sample_indices] == cell)
        yield places, scores.statistic_of(sample_indices[places])


def estimate_run_statistic(
    scores: RunLevelScores, sample_indices: Indices, clusters: ArrayLike, level: float = 0.95
) -> Estimate:
    """The run-level statistic of an arm with its interval.

    Args:
        scores: The metric and its samples.
        sample_indices: [n], the samples of the arm that have a part in the statistic.
        clusters: [n], any hashable labels.
        level: The confidence level.

    Returns:
        The mean over the cells in which the statistic is defined for these samples; NaN if there is none.
    """
    codes, cells = cluster_codes(clusters), list(cells_of_rows(scores, sample_indices))
    values, informative = np.empty(len(sample_indices)), np.zeros(len(sample_indices), dtype=bool)
    for places, statistic in cells:
        values[places], informative[places] = statistic.numbers(), statistic.informative
    if not (is_defined := np.isfinite(values)).any():
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    if not is_defined.all():  # the rest of a group, or a cell with one class
        return estimate_run_statistic(scores, sample_indices[is_defined], codes[is_defined], level)
    mean = float(values.mean())
    sums, sizes = cluster_sums(values, codes)
    variance = mean_variance(sums, sizes, float(values.var())) if len(sizes) > 1 else 0.0
    is_proportion = all(statistic.is_proportion for _, statistic in cells)
    if variance**0.5 < NO_SPREAD or (is_proportion and min(mean, 1 - mean) < NO_SPREAD):
        low, high = _extremes_of_arm(cells, codes, normal_quantile(0.5 + level / 2) ** 2)
        return Estimate(mean, min(low, mean), max(high, mean), len(values), len(sizes))
    # For F1, as F goes to 0 or 1, this approaches Wilson on the Jaccard index F / (2 - F), a proportion, mapped
    # back to F (Lam, Gopal and Qian 2023).
    counts = np.bincount(codes[informative]).astype(np.float64)
    if is_proportion and counts.max(initial=0) <= 1:
        low, high = wilson(mean * (size := mean * (1 - mean) / variance), size, level)
    else:
        low, high = interval_of_mean(mean, variance, counts[counts > 0], level, is_share=is_proportion)
    lowest, highest = _extremes_of_arm(cells, codes, OVERWHELMING)
    if lowest <= mean <= highest:  # not so for a ratio above 1 with the default worst and best of 0 and 1
        low, high = max(low, lowest), min(high, highest)
    return Estimate(mean, low, high, len(values), len(sizes))


def _extremes_of_arm(
    cells: Sequence[tuple[Indices, RunStatistic]], codes: Codes, clusters: float
) -> tuple[float, float]:
    """The statistic with this many more clusters of the worst samples, and of the best."""
    ends, sizes = [0.0, 0.0], cluster_sizes([(codes[places], statistic.informative) for places, statistic in cells])
    for (places, statistic), size in zip(cells, sizes, strict=True):
        for i, extreme in enumerate((statistic.worst, statistic.best)):
            sums = sum_rows(statistic.rows) + clusters * size * extreme
            ends[i] += float(statistic.value(sums)) * len(places) / len(codes)
    return min(ends), max(ends)


def cluster_sizes(cells: Sequence[tuple[Codes, NDArray[np.bool_]]]) -> list[float]:
    """For each cell, how many of its samples that can move the statistic an average cluster has.

    Args:
        cells: For each cell the cluster of its samples, and whether each can move the statistic. Clusters without
            such a sample in any cell do not count. A cluster may lie in one cell (parts of the data) or in all (seeds).
    """
    clusters = len(np.unique(np.concatenate([codes[informative] for codes, informative in cells])))
    return [float(informative.sum()) / clusters if clusters else 1.0 for _, informative in cells]
