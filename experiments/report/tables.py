"""The score tables of a run: a table per task, a row per arm, a column per number of shots.

A cell is a score with its interval. The terminal, the page, the figures and the CSV files use the same rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from experiments.config.keys import DEMONSTRATION_AXES
from experiments.results.run_view import RunView
from experiments.stats.arms import (
    NO_VALUE,
    axis_values,
    deciding_digests,
    find_baseline_column,
    iter_arms,
    matches_setting,
)
from experiments.stats.compare import compare
from experiments.stats.intervals import Estimate
from experiments.stats.pairs import UnpairedError
from experiments.stats.summary import estimate_arm, summarize_arms, summarize_curve
from icl.metrics.base import Better

if TYPE_CHECKING:
    from pandas import DataFrame

VOTE = "vote"
VOTE_AXES = ("retriever", "rerankers", "rerank_candidates", "transforms")
"""The axes that decide which demonstrations a prompt has, and their answers."""
ANY_VALUE = "any"
"""The label of an axis that cannot matter without demonstrations."""
Labels = tuple[str, ...]


@dataclass(frozen=True)
class ScoreRow:
    """One row of a score table.

    Attributes:
        labels: The row's value on each row axis.
        cells: The score at each number of shots. Rows may share a 0-shot cell.
        baseline: Whether the scores are those of a baseline, which needs no model.
        general: The labels of the 0-shot arm that this row shares with others, 'any' where an axis cannot matter. Empty
            if its 0-shot cell is its own.
        partial: Whether other lines have the cells that it lacks.
        decided_by: What decides the answers of each cell. Equal values mean equal answers by construction.
    """

    labels: Labels
    cells: Mapping[int, Estimate]
    baseline: bool = False
    general: Labels = ()
    partial: bool = False
    decided_by: Mapping[int, frozenset[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """'knn, vcd', 'vote, knn'."""
        return ", ".join(filter(None, reversed(self.labels) if self.baseline else self.labels))


@dataclass(frozen=True)
class TaskTable:
    """The score table of one task.

    Attributes:
        task: The label of the task.
        axes: The row axes.
        shots: The numbers of shots.
        rows: The rows.
        queries: The number of queries with scores.
        seeds: The number of seeds.
        failed: The number of failed samples.
        better: The good direction of the metric.
    """

    task: str
    axes: tuple[str, ...]
    shots: tuple[int, ...]
    rows: tuple[ScoreRow, ...]
    queries: int
    seeds: int
    failed: int
    better: Better = "higher"

    @property
    def lines(self) -> tuple[ScoreRow, ...]:
        """The rows as they are printed. A shared 0-shot cell has a line of its own."""
        shared: dict[Labels, list[ScoreRow]] = {}
        for row in self.rows:
            if row.general and 0 in row.cells:
                shared.setdefault(row.general, []).append(row)
        merged = {labels: rows[0] for labels, rows in shared.items() if len(rows) > 1}
        own = [
            replace(row, cells={k: cell for k, cell in row.cells.items() if k}, partial=True)
            if row.general in merged
            else row
            for row in self.rows
        ]
        zero = (
            replace(row, labels=labels, cells={0: row.cells[0]}, general=(), partial=True)
            for labels, row in merged.items()
        )
        return (*zero, *own)

    @property
    def folded_lines(self) -> tuple[list[ScoreRow], list[tuple[ScoreRow, ScoreRow]]]:
        """The lines of a page, and those that repeat an earlier line by construction, each with that line."""
        lines, repeated = list[ScoreRow](), list[tuple[ScoreRow, ScoreRow]]()
        for row in self.lines:
            first = next((other for other in lines if _is_same_by_construction(row, other)), None)
            if first is None:
                lines.append(row)
            else:
                repeated.append((row, first))
        return lines, repeated

    def is_best(self, row: ScoreRow, shots: int) -> bool:
        """Whether the row is an arm and no arm is better at this number of shots."""
        if self.better == "neither" or shots not in row.cells or row.baseline:
            return False
        rivals = [other.cells[shots].mean for other in self.rows if shots in other.cells and not other.baseline]
        return row.cells[shots].mean == (max(rivals) if self.better == "higher" else min(rivals))


def _is_same_by_construction(row: ScoreRow, other: ScoreRow) -> bool:
    """Whether the two rows have the same cells, at least one, and what decides them is known and equal."""
    if row.baseline or other.baseline or not row.cells or set(row.cells) != set(other.cells):
        return False
    return all(row.decided_by.get(k) and row.decided_by[k] == other.decided_by.get(k) for k in row.cells)


@lru_cache(maxsize=4)
def task_tables(view: RunView) -> tuple[TaskTable, ...]:
    """A table per task, in the order of the run."""
    return tuple(_task_table(view, task, view.paired_scores[view.paired_scores["task"] == task]) for task in view.tasks)


def score_frame(view: RunView) -> "DataFrame":
    """The scores of all arms as a flat frame: for tables/scores.csv."""
    return summarize_arms(view.paired_scores, view.metric, view.axes)


def difference_frame(view: RunView) -> "DataFrame | None":
    """Each arm compared with its reference, or None if there is nothing to compare. Raises UnpairedError."""
    if not view.to or all(view.scores[axis].nunique() < 2 for axis in view.to):
        return None
    return compare(view.scores, view.to, view.metric, correct=view.correct, axes=view.axes)


def differences_or_reason(view: RunView) -> "tuple[DataFrame | None, str]":
    """The `difference_frame`, and why there is none although arms could be compared; '' if nothing can be."""
    if view.is_sequential:
        return None, view.sequential_note
    try:
        return difference_frame(view), ""
    except UnpairedError as error:
        return None, str(error)


def control_labels(view: RunView) -> set[str]:
    """The labels of decodings that are controls, but neither strategies with controls nor the reference."""
    return {*view.control_names} - {*view.controls, str(view.to.get("decoding"))}


def curve_frame(task_tables: Sequence[TaskTable]) -> "DataFrame":
    """Gain, efficiency, headroom and peak of each row with 0 shots and others: for tables/curves.csv."""
    import pandas as pd

    rows = []
    for table in task_tables:
        for row in table.rows:
            points = sorted(row.cells.items())
            if len(points) > 1 and points[0][0] == 0:
                summary = summarize_curve(
                    [shots for shots, _ in points], [cell.mean for _, cell in points], table.better
                )
                rows.append({"task": table.task, **dict(zip(table.axes, row.labels, strict=True)), **vars(summary)})
    return pd.DataFrame(rows)


def _task_table(view: RunView, task: str, samples: "DataFrame") -> TaskTable:
    axes = view.row_axes
    estimates: dict[Labels, dict[int, Estimate]] = {}
    decided: dict[Labels, dict[int, frozenset[Any]]] = {}
    for arm, rows in iter_arms(samples, [*axes, "shots"]):
        labels = tuple(str(arm[axis]) for axis in axes)
        cells = estimates.setdefault(labels, {})
        if rows[view.metric].notna().any():
            cells[int(arm["shots"])] = estimate_arm(rows, view.metric)
            decided.setdefault(labels, {})[int(arm["shots"])] = deciding_digests(rows) or frozenset()
    orders = [{str(value): i for i, value in enumerate(axis_values(samples, axis))} for axis in axes]
    keys = [
        key
        for key in estimates
        if not (set(estimates[key]) == {0} and any(_shares(axes, key, other) for other in estimates))
    ]
    keys.sort(key=lambda key: [order[label] for order, label in zip(orders, key, strict=True)])
    rows_ = [_row(axes, estimates, decided, key) for key in keys]
    if voted := find_baseline_column(view.scores, VOTE, view.metric):
        rows_ += _votes(axes, samples, voted)
    scored = samples[samples[view.metric].notna()] if samples[view.metric].notna().any() else samples
    return TaskTable(
        task,
        axes,
        tuple(int(value) for value in axis_values(samples, "shots")),
        tuple(rows_),
        int(scored["query"].nunique()),
        int(samples["seed"].nunique()),
        int(samples["failed"].sum()),
        view.better,
    )


def _shares(axes: Sequence[str], general: Labels, key: Labels) -> bool:
    """Whether the 0-shot arm `general` is also that of the row `key`."""
    arm = {**dict(zip(axes, general, strict=True)), "shots": 0}
    return general != key and matches_setting(arm, dict(zip(axes, key, strict=True)))


def _row(
    axes: Sequence[str],
    estimates: Mapping[Labels, Mapping[int, Estimate]],
    decided: Mapping[Labels, Mapping[int, frozenset[Any]]],
    key: Labels,
) -> ScoreRow:
    """The row of these labels, with the 0-shot arm that it shares."""
    zero = next((other for other, cells in estimates.items() if 0 in cells and _shares(axes, other, key)), None)
    own = decided.get(key, {})
    if zero is None or 0 in estimates[key]:
        return ScoreRow(key, estimates[key], decided_by=own)
    general = tuple(
        ANY_VALUE if one == NO_VALUE and axis in DEMONSTRATION_AXES else one
        for axis, one in zip(axes, zero, strict=True)
    )
    cells = {0: estimates[zero][0], **estimates[key]}
    return ScoreRow(key, cells, general=general, decided_by={0: decided[zero][0], **own})


def _votes(axes: Sequence[str], samples: "DataFrame", column: str) -> Iterator[ScoreRow]:
    """The vote of each choice of demonstrations, as rows below those of the arms.

    Transforms that do not change the vote (such as those of images) share a row.
    """
    by = [axis for axis in VOTE_AXES if axis in axes]
    voted = samples[samples[column].notna() & (samples["shots"] != 0)].drop_duplicates(["query", "seed", "shots", *by])
    choices: dict[tuple[str, ...], list[ScoreRow]] = {}
    for chooser, own in iter_arms(voted, by):
        cells = {int(arm["shots"]): estimate_arm(rows, column) for arm, rows in iter_arms(own, ["shots"])}
        if cells:
            labels = (str(chooser[axis]) if axis in chooser else VOTE if axis == axes[-1] else "" for axis in axes)
            choice = tuple(str(value) for axis, value in chooser.items() if axis != "transforms")
            choices.setdefault(choice, []).append(ScoreRow(tuple(labels), cells, baseline=True))
    for rows in choices.values():
        same = len(rows) > 1 and all(row.cells == rows[0].cells for row in rows)
        merged = tuple("" if axis == "transforms" else own for axis, own in zip(axes, rows[0].labels, strict=True))
        yield from [replace(rows[0], labels=merged)] if same else rows
