"""How does accuracy fall with the share of wrong demonstrations? The noisy-label curve (Min et al. 2022)

    drop    accuracy without noise minus accuracy with it, in pairs, with Holm over the points of the curve; if lower is
            better, with noise minus without: above 0 the noise always hurts
    slope   least-squares slope of the score over the share, per setting; 0 for a model that ignores the labels
    vote    the score of the majority vote of the same demonstrations

The transform `noisy_labels` in the axis `transforms` sets the shares; [] is share 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import RunView, add_cell_column, answered_samples, as_deterioration, iter_settings, make_table
from experiments.stats import align_pairs, estimate_arm, holm, paired_test
from icl import DataFrame

NAME = "noisy_labels"
SHARE = "share"


def analyze(view: RunView) -> DataFrame:
    """One row per setting and share. Raises ConfigError if no setting has two shares."""
    rows = add_cell_column(view, answered_samples(view), SHARE, _share)
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("transforms",)):
        points = list(samples.groupby(SHARE))
        if len(points) < 2:
            continue
        compared = [{}, *(_against(points[0][1], point, view) for _, point in points[1:])]
        means = samples.groupby(SHARE)[view.metric].mean()
        slope = float(np.polyfit(means.index.to_numpy(dtype=float), means.to_numpy(dtype=float), 1)[0])
        tested: list[dict[str, Any]] = []
        for (share, point), against in zip(points, compared, strict=True):
            score = estimate_arm(point, view.metric)
            vote = float(point["vote"].mean()) if "vote" in point else np.nan
            tested.append(
                {
                    **setting,
                    SHARE: float(str(share)),
                    "score": score.mean,
                    "low": score.low,
                    "high": score.high,
                    "vote": vote,
                    **against,
                    "slope": slope,
                    "n": int(point[view.metric].notna().sum()),
                }
            )
        for row, p in zip(tested[1:], holm([row["p"] for row in tested[1:]]), strict=True):
            row["p"] = float(p)
        table_rows += tested
    return make_table(
        table_rows,
        f"The score against the share of wrong labels ({view.measure})",
        note="p after Holm",
        signed=("drop", "slope"),
        missing=f"{view.path}: a curve needs two shares of wrong labels or more. In grid, transforms: [[], "
        "[{name: noisy_labels, share: 0.5}], [{name: noisy_labels, share: 1}]].",
    )


def _against(first: DataFrame, point: DataFrame, view: RunView) -> dict[str, float]:
    result = paired_test(align_pairs(first, point, view.metric))
    return {"drop": as_deterioration(view.better, result.low, result.difference, result.high)[1], "p": result.p}


def _share(cell: Mapping[str, Any]) -> float | None:
    """0 without transforms, the share of noise if it is the only transform, else None."""
    nodes = cell.get("transforms") or []
    if not nodes:
        return 0.0
    return float(nodes[0][SHARE]) if len(nodes) == 1 and nodes[0].get("name") == NAME else None
