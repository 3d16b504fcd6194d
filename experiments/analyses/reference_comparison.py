"""A comparison of every arm with its reference on a score of the analysis, in pairs, and over all folds together."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments import RunView, read_cells
from experiments.grid.axis_labels import short_labels
from experiments.stats import KEYS, UNIT, label_axes, tidy_frame
from experiments.stats.compare import compare
from icl import ConfigError, DataFrame


def compare_with_reference(view: RunView, rows: DataFrame, score: str) -> list[dict[str, Any]]:
    """Compares every arm with its reference.

    Args:
        view: The run, with the setting of the reference.
        rows: Samples with the column `score`; those without a value are left out.
        score: The column of the score.

    Returns:
        One row per arm: its axes, the reference's mean, its mean, the difference with its interval, p and the number of
        pairs.

    Raises:
        ConfigError: If no arm has a reference.
    """
    rows = rows[rows[score].notna()]
    whole = merge_folds(view, rows)
    return [line for part in (whole, rows) if part is not None for line in _lines(view, part, score)]


def _lines(view: RunView, rows: DataFrame, score: str) -> list[dict[str, Any]]:
    comparison = compare(rows, view.to, score, axes=view.axes, correct=view.correct)
    named = label_axes(comparison, view.axes)
    return [
        {
            **{axis: row[axis] for axis in named},
            "reference": float(row["reference_mean"]),
            score: float(row["mean"]),
            **{key: float(row[key]) for key in ("difference", "low", "high")},
            "p": float(row["p_corrected"]),
            "n": int(row["pairs"]),
        }
        for row in comparison.to_dict("records")
    ]


HELD_OUT = "held_out"
"""The task parameter in which folds differ."""

FOLDED = ("task", "retriever")
"""The axes whose components may have the parameter."""


def merge_folds(view: RunView, rows: DataFrame) -> DataFrame | None:
    """The rows with all folds of a task under one name; None if no task has folds.

    Groups are joined across folds: one emoji occurs in the drawings of several vendors.
    """
    cells = read_cells(view, rows)
    if len({_held_out(cell.get("task")) for cell in cells.values()}) < 2:
        return None
    columns = rows.drop(columns=[UNIT], errors="ignore")
    for axis in FOLDED:
        nodes = {digest: _without(cell.get(axis)) for digest, cell in cells.items()}
        names = dict(zip(nodes, short_labels(list(nodes.values())), strict=True))
        columns = columns.assign(**{axis: [names[digest] for digest in rows["cell"]]})
    frame = tidy_frame(columns, view.axes)
    frame.attrs = dict(rows.attrs)
    return frame


def _held_out(node: Any) -> str:
    return str(node.get(HELD_OUT)) if isinstance(node, Mapping) else ""


def _without(node: Any) -> Any:
    """The node without the parameter HELD_OUT, at any depth."""
    if isinstance(node, Mapping):
        return {key: _without(value) for key, value in node.items() if key != HELD_OUT}
    return [_without(one) for one in node] if isinstance(node, list) else node


AXES_AFTER_CHOICE = ("order", "composer", "decoding", "answer_mode", "max_new_tokens")
"""The axes that change no demonstration (except `more_demonstrations`, a decoding)."""


def distinct_choices(view: RunView, rows: DataFrame, what: str) -> tuple[RunView, DataFrame]:
    """A view that names its reference by axes that change the demonstrations, and one row per choice and sample.

    Args:
        view: The run.
        rows: Its samples.
        what: What is equal in arms with the same demonstrations, for the error.

    Raises:
        ConfigError: If the reference differs only in axes that do not change the demonstrations.
    """
    to = {axis: value for axis, value in view.to.items() if axis not in AXES_AFTER_CHOICE}
    if view.to and not to:
        raise ConfigError(
            f"{view.path}: {what} does not depend on {' and '.join(view.to)}. "
            "Use another reference, such as --to retriever=random."
        )
    same = [axis for axis in AXES_AFTER_CHOICE if axis in view.axes]
    rows = rows.drop_duplicates([*(axis for axis in view.axes if axis not in same), *KEYS])
    return replace(view, to=to), rows.assign(**dict.fromkeys(same, "any"))
