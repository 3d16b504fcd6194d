"""Does the task need in-context learning from images? The admission test of TrueMICL (2507.15807)

A task is admitted if demonstrations help, and blank images in the demonstrations take the help away:

    gain      mean score at k shots minus the mean at 0 shots, in pairs
    blanked   the same for k shots whose images are blank
    share     (gain - blanked) / gain: the share of the gain that the images carry; undefined without a gain
    admitted  yes: the interval of `gain` is above 0, and the interval of `blanked` reaches 0 or below. no: it does not.
              unclear: the interval of `gain` reaches 0

Run it with shots: [0, k] and transforms: [[], [{name: images, how: blank, where: demos}]]. If lower scores are
better, they enter with the other sign. Only samples that were answered in all three settings count.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import (
    RunView,
    add_cell_column,
    answered_samples,
    iter_settings,
    make_table,
    prefixed_interval,
    require_sample_metric,
)
from experiments.stats import UNIT
from icl import DataFrame

FORM = "demonstrations"
ADVICE = "In grid, shots: [0, 4] and transforms: [[], [{name: images, how: blank, where: demos}]]."


def analyze(view: RunView) -> DataFrame:
    """One row per setting with shots. Raises ConfigError if one of the three settings was not run."""
    require_sample_metric(view)
    rows = add_cell_column(view, answered_samples(view, with_demos=False), FORM, _form)
    rows = rows[rows[view.metric].notna()]
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("transforms", "shots", "retriever", "order")):
        keys = ["query", "seed", UNIT]
        zero = samples[samples["shots"] == 0].groupby(keys)[view.metric].mean()
        for shots in sorted(set(samples["shots"]) - {0}):
            at = samples[samples["shots"] == shots]
            wide = at.pivot_table(index=keys, columns=FORM, values=view.metric, aggfunc="mean")
            if not {"full", "blank"} <= set(wide):
                continue
            wide = wide.assign(zero=zero).dropna()
            if len(wide):
                table_rows.append({**setting, "shots": shots, **_verdict(wide, view.better == "lower")})
    return make_table(
        table_rows,
        f"Admission of tasks for in-context learning ({view.measure})",
        note="gain and blanked: against 0 shots, in pairs; admitted: demonstrations help, and not with blank images",
        signed=tuple(f"{name}{end}" for name in ("gain", "blanked") for end in ("", "_low", "_high")),
        missing=f"{view.path}: no setting was run at 0 shots, at k shots and with blank images. {ADVICE}",
    )


def _verdict(wide: DataFrame, lower_is_better: bool) -> dict[str, Any]:
    sign = -1 if lower_is_better else 1
    clusters = wide.index.get_level_values(UNIT).to_numpy()
    line: dict[str, Any] = {"zero": float(wide["zero"].mean())}
    for name, column in (("gain", "full"), ("blanked", "blank")):
        values = sign * (wide[column] - wide["zero"]).to_numpy(dtype=float)
        line |= prefixed_interval(values, clusters, name)
    line["share"] = (line["gain"] - line["blanked"]) / line["gain"] if line["gain"] > 0 else np.nan
    verdict = "yes" if line["blanked_low"] <= 0 else "no"
    return {**line, "admitted": verdict if line["gain_low"] > 0 else "unclear", "n": len(wide)}


def _form(cell: Mapping[str, Any]) -> str | None:
    """'full' without a transform, 'blank' with blank images of the demonstrations, else None."""
    nodes = cell.get("transforms") or []
    if not nodes:
        return "full"
    node = nodes[0] if len(nodes) == 1 else {}
    is_blank = (node.get("name"), node.get("how"), node.get("where", "demos")) == ("images", "blank", "demos")
    return "blank" if is_blank else None
