"""How does accuracy grow with shots? Gain, efficiency, peak and monotonicity (VL-ICL, Zong et al. 2025)

One row per curve. `gain` is that of the most shots, in pairs with the same queries at 0 shots, with Holm over the
curves. `experiments.stats.curve_summary` defines efficiency, headroom and peak.
"""

from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import make_table
from experiments.stats.arms import better_of, iter_arms, varying_axes
from experiments.stats.compare import compare
from experiments.stats.curve_summary import summarize_curve
from experiments.stats.significance import holm

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """One row per curve. Raises ConfigError if the run has no arm at 0 shots."""
    gains = compare(view.scores, {"shots": 0}, view.metric, axes=view.axes, correct="none")
    axes = [axis for axis in view.axes if axis != "shots"]
    label_axes = [axis for axis in axes if axis == "task" or axis in varying_axes(gains, axes)]
    better = better_of(view.scores, view.metric)
    table_rows: list[dict[str, Any]] = []
    for setting, points in iter_arms(gains.sort_values("shots", kind="stable"), label_axes):
        last = points.iloc[-1]
        zero = float(last["reference_mean"])
        summary = summarize_curve([0, *map(int, points["shots"])], [zero, *map(float, points["mean"])], better)
        tested = {
            "gain": float(last["difference"]),
            "low": float(last["low"]),
            "high": float(last["high"]),
            "p": float(last["p"]),
        }
        area = {"efficiency": summary.efficiency, "headroom": summary.headroom}
        peak = {"peak": summary.peak, "peak_shots": summary.peak_shots, "monotone": summary.monotone}
        table_rows.append({**setting, "at_0": zero, "shots": int(last["shots"]), **tested, **area, **peak})
    for row, p in zip(table_rows, holm([row["p"] for row in table_rows]), strict=True):
        row["p"] = float(p)
    note = "gain: at the most shots, against 0; efficiency: mean gain over the axis of shots; p after Holm"
    return make_table(table_rows, "Shot curves", note=note, signed=("gain", "low", "high", "efficiency", "headroom"))
