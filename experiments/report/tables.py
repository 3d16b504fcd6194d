"""The table of a run: a block a task, a row an arm, a column a number of shots, in each cell a score with its interval.

The same rows feed the terminal, the page, the figures and the CSV files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.report.view import View
from experiments.stats.arms import NONE, values_of
from experiments.stats.compare import compare
from experiments.stats.intervals import Estimate, estimate
from experiments.stats.pairs import clusters_of

if TYPE_CHECKING:
    from pandas import DataFrame

VOTE = "vote"


@dataclass(frozen=True)
class Row:
    """labels: the row's value on each row axis. cells: shots -> score; a shared 0-shot cell stands in every row.

    baseline: what the demonstrations of these arms say without a model.
    """

    labels: tuple[str, ...]
    cells: Mapping[int, Estimate]
    baseline: bool = False


@dataclass(frozen=True)
class TaskTable:
    """One task. queries, seeds, failed: what stands behind it. shared_zero: no row has 0 shots of its own."""

    task: str
    axes: tuple[str, ...]
    shots: tuple[int, ...]
    rows: tuple[Row, ...]
    queries: int
    seeds: int
    failed: int


def task_tables(view: View) -> list[TaskTable]:
    """A table a task, in the order of the run."""
    return [_task_table(view, task, view.frame[view.frame["task"] == task]) for task in view.tasks]


def score_frame(view: View) -> "DataFrame":
    """The summary as a flat frame: for tables/scores.csv."""
    from experiments.stats.summary import summarise

    return summarise(view.frame, view.metric, view.axes)


def difference_frame(view: View) -> "DataFrame | None":
    """Each arm against its reference; None where the run has nothing to compare. Raises UnpairedError."""
    if not view.to or all(view.frame[axis].nunique() < 2 for axis in view.to):
        return None
    return compare(
        view.frame, view.to, view.metric, correct="none" if view.correct == "none" else "holm", axes=view.axes
    )


def _task_table(view: View, task: str, samples: "DataFrame") -> TaskTable:
    axes = view.row_axes
    shots = tuple(int(value) for value in values_of(samples, "shots")) if "shots" in view.axes else (0,)
    groups = dict(iter(samples.groupby(list(axes), sort=False))) if axes else {(): samples}
    keys = sorted(_rows_of(groups, axes), key=lambda key: _order(key, axes, samples))
    rows = [Row(key, _cells(groups, key, axes, shots, view.metric)) for key in keys]
    if "vote" in samples and "shots" in view.axes:
        rows += _votes(axes, samples)
    failed = int(samples["failed"].notna().sum()) if "failed" in samples else 0
    queries, seeds = int(samples["query"].nunique()), int(samples["seed"].nunique())
    return TaskTable(task, axes, shots, tuple(rows), queries, seeds, failed)


def _rows_of(groups: Mapping[Any, Any], axes: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys that get a row: those with 'none' only where no other row takes their cells in."""
    keys = [tuple(str(v) for v in (key if isinstance(key, tuple) else (key,))) for key in groups]
    return [key for key in keys if not any(other != key and _fits(key, other) for other in keys)]


def _fits(general: Sequence[str], key: Sequence[str]) -> bool:
    return all(a in (b, NONE) for a, b in zip(general, key, strict=True))


def _cells(
    groups: Mapping[Any, "DataFrame"], key: tuple[str, ...], axes: Sequence[str], shots: Sequence[int], metric: str
) -> dict[int, Estimate]:
    """shots -> estimate, from the row's own samples, else from those of the arm that it shares (0 shots)."""
    found: dict[int, Estimate] = {}
    own = [rows for group, rows in groups.items() if _words(group) == key]
    shared = [rows for group, rows in groups.items() if _words(group) != key and _fits(_words(group), key)]
    for rows in (*own, *shared):
        for number in shots:
            part = rows[rows["shots"] == number] if "shots" in rows else rows
            part = part[part[metric].notna()]
            if number not in found and len(part):
                found[number] = estimate(part[metric].to_numpy(dtype=float), clusters_of(part))
    return found


def _votes(axes: Sequence[str], samples: "DataFrame") -> Iterator[Row]:
    """The vote of each retriever's demonstrations, under the rows of the arms that read them."""
    voted = samples[samples["vote"].notna() & (samples["shots"] != 0)]
    for name in values_of(voted, "retriever") if "retriever" in axes else (NONE,):
        own = voted[voted["retriever"] == name] if "retriever" in axes else voted
        cells = {
            number: estimate(part["vote"].to_numpy(dtype=float), clusters_of(part))
            for number, part in _by_shots(own.drop_duplicates(["query", "seed", "shots"]))
        }
        if cells:
            labels = (str(name) if axis == "retriever" else VOTE if axis == axes[-1] else "" for axis in axes)
            yield Row(tuple(labels), cells, baseline=True)


def _by_shots(samples: "DataFrame") -> "Iterator[tuple[int, DataFrame]]":
    for number in values_of(samples, "shots"):
        yield int(number), samples[samples["shots"] == number]


def _words(group: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in (group if isinstance(group, tuple) else (group,)))


def _order(key: tuple[str, ...], axes: Sequence[str], samples: "DataFrame") -> tuple[int, ...]:
    return tuple([str(v) for v in values_of(samples, axis)].index(label) for label, axis in zip(key, axes, strict=True))
