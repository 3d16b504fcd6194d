"""What does each change of the demonstrations cost? (Xu et al., NAACL 2025; Baldassini et al. 2024)

    drop    accuracy without the change minus accuracy with it, in pairs, with Holm over all changes
    share   drop / (accuracy - accuracy at 0 shots): the part of the gain that is lost. It is defined only if there is a
            gain; if demonstrations hurt, a real drop would be negative

If lower is better, a drop is a rise of the score: above 0 the change always hurts. Without a good direction a drop is a
fall, and there is no share. One row per change and setting: the axis `transforms` against no transform.
"""

from typing import Any

import numpy as np

from experiments import RunView, as_deterioration, make_table
from experiments.stats import NO_VALUE, label_axes, matches_setting
from experiments.stats.compare import compare
from icl import DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per change and setting. Raises ConfigError without arms with and without transforms."""
    changed = compare(view.scores, {"transforms": NO_VALUE}, view.metric, axes=view.axes)
    named = label_axes(changed, view.axes)
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
            {**{axis: arm[axis] for axis in named}, **means, **tested, "share": share, "n": int(row["pairs"])}
        )
    return make_table(
        table_rows,
        f"The cost of each change of the demonstrations ({view.measure})",
        note="share: of the gain over 0 shots that the change takes away; – without a gain. p after Holm",
        signed=("drop", "low", "high", "share"),
    )


def _at_zero(view: RunView, arm: dict[str, Any]) -> float:
    """Accuracy of the same setting at 0 shots without a transform; NaN if it was not run."""
    zero_shot_arm = {**arm, "shots": 0, "transforms": NO_VALUE}
    zeros = view.scores[(view.scores["shots"] == 0) & (view.scores["transforms"] == NO_VALUE)]
    for _, rows in zeros.groupby(list(view.axes), sort=False):
        if matches_setting({axis: rows[axis].iloc[0] for axis in view.axes}, zero_shot_arm):
            return float(rows[view.metric].mean())
    return float("nan")
