"""A score of an analysis's own, of every arm against its reference, in pairs; folds of one task also all together."""

from typing import TYPE_CHECKING, Any

from experiments.analyses.folds import merge_folds
from experiments.stats.arms import varying_axes
from experiments.stats.compare import compare

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def compare_with_reference(view: "RunView", rows: "DataFrame", score: str) -> list[dict[str, Any]]:
    """A row an arm: its axes, the reference's mean, its own, the difference with its ends, p and the number of pairs.

    rows: with the column `score`; those without a value are left out. Raises ConfigError where no arm has a reference.
    """
    rows = rows[rows[score].notna()]
    whole = merge_folds(view, rows)
    return [line for part in (whole, rows) if part is not None for line in _lines(view, part, score)]


def _lines(view: "RunView", rows: "DataFrame", score: str) -> list[dict[str, Any]]:
    comparison = compare(rows, view.to, score, axes=view.axes, correct=view.correct)
    label_axes = [
        axis for axis in view.axes if axis in ("task", "shots") or axis in varying_axes(comparison, view.axes)
    ]
    return [
        {
            **{axis: row[axis] for axis in label_axes},
            "reference": float(row["reference_mean"]),
            score: float(row["mean"]),
            **{key: float(row[key]) for key in ("difference", "low", "high")},
            "p": float(row["p_corrected"]),
            "n": int(row["pairs"]),
        }
        for row in comparison.to_dict("records")
    ]
