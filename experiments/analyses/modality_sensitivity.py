"""Modality sensitivity: what each change of the demonstrations costs (Xu et al., NAACL 2025; Baldassini et al. 2024).

    drop    accuracy as it is minus accuracy changed, in pairs, Holm over all; whatever the gain was
    share   drop / (accuracy as it is - accuracy at 0 shots): the part of the gain that is lost. Only where there is a
            gain: with none it is undefined, and where demonstrations hurt a real drop would come out negative

Of a score that is better when lower a drop is a rise: above 0 the change hurts, whichever way is good. Where neither
way is, a drop is a fall, and there is no share.

A row a change and setting: the axis `transforms` against no transform.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses.shared import as_deterioration, make_table
from experiments.stats.arms import NO_VALUE, matches_setting, varying_axes
from experiments.stats.compare import compare

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """Raises ConfigError where the run has no transform, or nothing without one."""
    changed = compare(view.scores, {"transforms": NO_VALUE}, view.metric, axes=view.axes)
    label_axes = [axis for axis in view.axes if axis in ("task", "shots") or axis in varying_axes(changed, view.axes)]
    table_rows: list[dict[str, Any]] = []
    for row in changed.to_dict("records"):
        arm = {axis: row[axis] for axis in view.axes}
        intact, zero = float(row["reference_mean"]), _at_zero(view, arm)
        low, drop, high = as_deterioration(view.better, float(row["low"]), float(row["difference"]), float(row["high"]))
        tested = {"drop": drop, "low": low, "high": high, "p": float(row["p_corrected"])}
        gain = {"higher": intact - zero, "lower": zero - intact, "neither": np.nan}[view.better]
        share = drop / gain if gain > 0 else np.nan
        means = {"intact": intact, "changed": float(row["mean"]), "at_0": zero}
        table_rows.append(
            {**{axis: arm[axis] for axis in label_axes}, **means, **tested, "share": share, "n": int(row["pairs"])}
        )
    note = "share: of the gain over 0 shots that the change takes away; – where there is no gain. p after Holm"
    return make_table(
        table_rows,
        f"What each change of the demonstrations costs ({view.measure})",
        note=note,
        signed=("drop", "low", "high", "share"),
    )


def _at_zero(view: "RunView", arm: dict[str, Any]) -> float:
    """Accuracy at 0 shots without a transform, all else the same; NaN where it was not run."""
    zero_shot_arm = {**arm, "shots": 0, "transforms": NO_VALUE}
    zeros = view.scores[(view.scores["shots"] == 0) & (view.scores["transforms"] == NO_VALUE)]
    for _, rows in zeros.groupby(list(view.axes), sort=False):
        if matches_setting({axis: rows[axis].iloc[0] for axis in view.axes}, zero_shot_arm):
            return float(rows[view.metric].mean())
    return float("nan")
