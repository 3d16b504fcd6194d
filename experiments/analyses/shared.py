"""Helpers of analyses: answered samples, settings, intervals and tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.grid.grid import expand
from experiments.results.run_view import RunView
from experiments.stats import Pairs, as_sequence, estimate_mean, iter_arms, label_axes, paired_test
from experiments.store.store import Store
from icl import Better, ConfigError, DataFrame, StoreError, Task, build, pd

BEST_SCORE = {"higher": 1, "lower": 0}
"""The best score of a sample for each good direction."""


def answered_samples(view: RunView, with_demos: bool = True) -> DataFrame:
    """The samples that did not fail, by default those with demonstrations. Raises ConfigError if there are none."""
    rows = view.frame[view.frame["failed"].isna()]
    if with_demos:
        rows = rows[rows["demos"].map(lambda demos: bool(as_sequence(demos)))] if "demos" in rows else rows[:0]
    if not len(rows):
        raise ConfigError(
            f"{view.path}: no sample has {'demonstrations and ' if with_demos else ''}an answer. "
            "Run the experiment with shots above 0."
        )
    return rows


def require_sample_metric(view: RunView) -> None:
    """Raises ConfigError for a run-level metric, which has no score of a single sample."""
    if view.of_samples:
        return
    own = ", ".join(view.sample_metrics)
    raise ConfigError(
        f"{view.path}: '{view.metric}' is a run-level metric, and this analysis reads scores of single samples. "
        f"Choose one with --metric{f': {own}' if own else '; the run has none'}."
    )


def build_retriever(cell: Mapping[str, Any]) -> Any:
    """The retriever that cell.json describes. None at 0 shots, and where it or the task is code of the user's own."""
    if any(":" in str((cell[axis] or {"name": ":"})["name"]) for axis in ("task", "retriever")):
        return None
    return build("retriever", cell["retriever"])


def read_cells(view: RunView, rows: DataFrame) -> dict[str, Mapping[str, Any]]:
    """Digest -> description of each cell of the rows. A description is empty if the run does not store it."""
    store = Store(view.path)
    return {str(digest): store.read_cell(str(digest)) or {} for digest in rows["cell"].unique()}


def run_tasks(view: RunView, rows: DataFrame) -> dict[str, Task]:
    """Label -> task of the run's config, for all tasks of the rows.

    Raises:
        StoreError: The config has no such task, or the task no such query.
    """
    from experiments.results.loaded_run import load_run

    cells = expand(load_run(view.path, view.trust).load_config()).cells
    tasks = {str(cell.labels["task"]): cell.task for cell in cells}
    for label, own in rows.groupby(rows["task"].astype(str)):
        if label not in tasks:
            raise StoreError(
                f"{view.path}: its samples are of the task '{label}', and the config in its run.json has "
                f"{', '.join(tasks)}. Run the config again under another name."
            )
        if unknown := set(own["query"]) - {example.id for example in tasks[str(label)].queries}:
            raise StoreError(
                f"{view.path}: task '{label}' has no query '{min(unknown)}' any more: its data have changed. Use the "
                "data of the run."
            )
    return tasks


def add_cell_column(view: RunView, rows: DataFrame, name: str, read: Callable[[Mapping[str, Any]], Any]) -> DataFrame:
    """The rows with a column `name` of what `read` returns for their cell, without those for which it is None."""
    values = {digest: read(cell) for digest, cell in read_cells(view, rows).items()}
    rows = rows.assign(**{name: rows["cell"].map(values)})
    return rows[rows[name].notna()]


def iter_settings(
    view: RunView, rows: DataFrame, without: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], DataFrame]]:
    """(setting, rows) of each combination of the axes that vary; the setting always has task and shots."""
    among = [axis for axis in view.axes if axis not in without]
    yield from iter_arms(rows, label_axes(rows, among))


def as_deterioration(better: Better, low: float, middle: float, high: float) -> tuple[float, float, float]:
    """A difference and its interval as a deterioration: with the other sign unless lower is better."""
    return (low, middle, high) if better == "lower" else (-high, -middle, -low)


def mean_of_defined(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN. NaN if there are none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def interval_columns(values: Sequence[float] | Any, units: Any, name: str, *, bounded: bool = True) -> dict[str, float]:
    """The columns `name`, low and high of a mean over clusters (`estimate_mean`); NaN without values."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return {name: np.nan, "low": np.nan, "high": np.nan}
    interval = estimate_mean(x, np.asarray(units), bounded=bounded)
    return {name: interval.mean, "low": interval.low, "high": interval.high}


def prefixed_interval(
    values: Sequence[float] | Any, units: Any, name: str, *, bounded: bool = True
) -> dict[str, float]:
    """The columns `name`, `name`_low and `name`_high of a mean over clusters, for rows with several intervals."""
    middle, low, high = interval_columns(values, units, name, bounded=bounded).values()
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def paired_columns(reference: Any, other: Any, units: Any, name: str) -> dict[str, float]:
    """The columns `name`, `name`_low, `name`_high and `name`_p of other - reference, in pairs (`paired_test`)."""
    result = paired_test(Pairs(np.asarray(reference), np.asarray(other), np.asarray(units)))
    return {name: result.difference, f"{name}_low": result.low, f"{name}_high": result.high, f"{name}_p": result.p}


def make_table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    *,
    note: str = "",
    signed: Sequence[str] = (),
    missing: str = "",
    figure: Mapping[str, Any] | None = None,
) -> DataFrame:
    """A frame with title, note, the names of signed columns and its figure in `attrs`.

    Raises:
        ConfigError: There are no rows; the message is `missing`, if it is given.
    """
    if missing and not rows:
        raise ConfigError(missing)
    frame = pd.DataFrame(list(rows))
    frame.attrs |= {"title": title, "note": note, "signed": tuple(signed), **({"figure": figure} if figure else {})}
    return frame
