"""A comparison of every arm with its reference on a score of the analysis, in pairs, and over all folds together."""

from typing import TYPE_CHECKING, Any

from experiments.analyses.folds import merge_folds
from experiments.stats.arms import label_axes
from experiments.stats.compare import compare

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def compare_with_reference(view: "RunView", rows: "DataFrame", score: str) -> list[dict[str, Any]]:
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


def _lines(view: "RunView", rows: "DataFrame", score: str) -> list[dict[str, Any]]:
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
