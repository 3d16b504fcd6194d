"""Which part of the gain from demonstrations is format? (VL-ICL, Zong et al. 2025)

    format gain = (strict_k - strict_0) - (lenient_k - lenient_0)

A model that knows the answers and learns only their form from demonstrations gains under strict scoring alone. Pairs
have the same query and seed; Holm corrects over the arms.
"""

from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import make_table
from experiments.stats.arms import varying_axes
from experiments.stats.compare import compare
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """One row per arm with shots. Raises ConfigError without both scores, or without an arm at 0 shots."""
    if lacking := [metric for metric in ("strict", "lenient") if metric not in view.scores]:
        raise ConfigError(f"{view.path}: format gain needs the scores strict and lenient; it has no {lacking[0]}.")
    scores = view.scores.assign(form=view.scores["strict"] - view.scores["lenient"])
    form, strict, lenient = (
        compare(scores, {"shots": 0}, metric, axes=view.axes) for metric in ("form", "strict", "lenient")
    )
    label_axes = [axis for axis in view.axes if axis in ("task", "shots") or axis in varying_axes(form, view.axes)]
    table_rows: list[dict[str, Any]] = [
        {
            **{axis: row[axis] for axis in label_axes},
            "gain_strict": float(by_strict),
            "gain_lenient": float(by_lenient),
            "format_gain": float(row["difference"]),
            "low": float(row["low"]),
            "high": float(row["high"]),
            "p": float(row["p_corrected"]),
            "n": int(row["pairs"]),
        }
        for row, by_strict, by_lenient in zip(
            form.to_dict("records"), strict["difference"], lenient["difference"], strict=True
        )
    ]
    signed = ("gain_strict", "gain_lenient", "format_gain", "low", "high")
    return make_table(table_rows, "How much of the gain is format", note="p after Holm", signed=signed)
