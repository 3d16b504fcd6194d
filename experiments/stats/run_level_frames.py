"""Columns of run-level metrics (F1, ROC AUC, CIDEr) in a frame of samples.

Such a metric has one value T per cell; a cell is one setting under one seed. Its column still has one number per
sample, and their mean in a cell is T. For a mean of scores (CIDEr) these are the scores. For others they are jackknife
pseudo-values (`pseudo_values`): T plus the scaled difference between T and the statistic without the sample.

T of other samples (without failed ones, or of two arms with clusters exchanged) is not the mean of their numbers. So
the frame keeps what T was computed from: `frame.attrs[RUN_LEVEL]`, a `RunLevelColumns`, maps each column to its
`RunLevelScores`, the metric with its samples; the column SAMPLE has the place of each row in these samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import Codes, Floats
from icl import ConfigError, DataFrame, RunStatistic, ScoredSample
from icl.metrics.run_level import RunLevelMetric, run_statistic

Indices = NDArray[np.intp]

RUN_LEVEL = "run_level"
"""The key of a frame's `attrs` with its `RunLevelColumns`."""
SAMPLE = "sample:number"
"""The column of a frame with the number of each sample in its `RunLevelScores`. No data have such a column."""


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
