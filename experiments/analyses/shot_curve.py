"""How does accuracy grow with shots? Gain, efficiency, peak and monotonicity (VL-ICL, Zong et al. 2025)

One row per curve. `gain` is measured at the most shots, in pairs with the same queries at 0 shots, with Holm over the
curves. `experiments.stats.summary` defines efficiency, headroom and peak.
"""

import math
from typing import Any

from experiments import RunView, make_table
from experiments.stats import better_of, iter_arms, summarize_curve, varying_axes
from experiments.stats.compare import compare
from icl import DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per curve. Raises ConfigError if the run has no arm at 0 shots."""
    gains = compare(view.scores, {"shots": 0}, view.metric, axes=view.axes, correct="none")
    axes = [axis for axis in view.axes if axis != "shots"]
    label_axes = [axis for axis in axes if axis == "task" or axis in varying_axes(gains, axes)]
    better = better_of(view.scores, view.metric)
    table_rows: list[dict[str, Any]] = []
    ends: list[tuple[Any, ...]] = []
    for setting, points in iter_arms(gains.sort_values("shots", kind="stable"), label_axes):
        last = points.iloc[-1]
        ends.append(tuple(last[axis] for axis in view.axes))
        zero = float(last["reference_mean"])
        summary = summarize_curve([0, *map(int, points["shots"])], [zero, *map(float, points["mean"])], better)
        tested = dict.fromkeys(("gain", "low", "high", "p"), math.nan)
        area = {"efficiency": summary.efficiency, "headroom": summary.headroom}
        peak = {"peak": summary.peak, "peak_shots": summary.peak_shots, "monotone": summary.monotone}
        table_rows.append({**setting, "at_0": zero, "shots": int(last["shots"]), **tested, **area, **peak})
    at_ends = view.scores.set_index(list(view.axes)).index.isin(ends)
    scores = view.scores[at_ends | (view.scores["shots"] == 0)]
    results = compare(scores, {"shots": 0}, view.metric, axes=view.axes)
    gains_at_end = {tuple(row[axis] for axis in view.axes): row for row in results.to_dict("records")}
    for row, end in zip(table_rows, ends, strict=True):
        result: Any = gains_at_end[end]
        row |= {"gain": result["difference"], "p": result["p_corrected"], "low": result["low"], "high": result["high"]}
    return make_table(
        table_rows,
        "Shot curves",
        note="gain: at the most shots, against 0; efficiency: mean gain over the axis of shots; p and interval after "
        "Holm",
        signed=("gain", "low", "high", "efficiency", "headroom"),
    )
