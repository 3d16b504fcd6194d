"""How much of the demonstrations' gain does an intervention recover? (acc_vec - acc_0) / (acc_k - acc_0), by arm

    recovery = (mean score with the vector - mean at 0 shots) / (mean at k shots - mean at 0 shots)

All three means are over the same queries and seeds. k is the number of shots of the arm itself, or the largest of the
run if the arm has none. Retrievers, rerankers and orders have means of their own: an arm with demonstrations is
compared with the same ones, an arm at 0 shots with each. The interval is that of the linearized ratio over clusters:
the mean of R + (dv - R dk) / D, where dv and dk are the gains of a sample, R is the recovery and D the mean of dk.
There is no recovery if D <= 0.

Run it with `zip: {shots: [0, 0, 8], intervene: [none, {name: task_vector, fitted: v.safetensors}, none]}` and
`controls: default`, which adds the controls of each vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from experiments.analyses.shared import answered_samples, interval_columns, make_table, require_sample_metric
from experiments.config.keys import DEMONSTRATION_AXES, NO_INTERVENTION
from experiments.stats.arms import UNIT, iter_arms, varying_axes
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

PAIR = ["query", "seed"]
"""The columns that two samples of a pair have in common."""


def analyze(view: "RunView") -> "DataFrame":
    """One row per intervention. Raises ConfigError if the run lacks interventions, 0 shots or demonstrations."""
    require_sample_metric(view)
    rows = answered_samples(view, with_demos=False)
    rows = rows[rows[view.metric].notna()]
    if "intervene" not in rows or set(rows["intervene"]) <= {NO_INTERVENTION}:
        raise ConfigError(f"{view.path}: no arm has an intervention (key `intervene`).")
    free = (*DEMONSTRATION_AXES, "shots", "intervene")
    groups = [axis for axis in view.axes if axis not in free and (axis == "task" or axis in varying_axes(rows, [axis]))]
    of_demos = varying_axes(rows[rows["shots"] > 0], [axis for axis in DEMONSTRATION_AXES if axis in view.axes])
    table_rows = [row for setting, own in iter_arms(rows, groups) for row in _rows(view, setting, of_demos, own)]
    if not table_rows:
        raise ConfigError(
            f"{view.path}: recovery compares an intervention with the same queries at 0 shots and with demonstrations, "
            "both without intervention. In zip: shots: [0, 0, 8] and intervene: [none, {...}, none]."
        )
    note = "recovery: share of the gain of demonstrations; none where they have no gain; n: pairs"
    if not rows["intervene"].str.contains("control=").any():
        note += ". This run has no control of a vector: controls: default adds them"
    return make_table(table_rows, f"Recovery ({view.measure})", note=note, signed=("recovery", "low", "high"))


def _rows(
    view: "RunView", setting: Mapping[str, Any], of_demos: Sequence[str], rows: "DataFrame"
) -> Iterator[dict[str, Any]]:
    """The table's rows of one setting, for each value of the axes `of_demos`. They have the 0-shot side in common."""
    plain = rows[rows["intervene"] == NO_INTERVENTION]
    zero = plain[plain["shots"] == 0]
    for demos, references in iter_arms(plain[plain["shots"] > 0], of_demos):
        steered = rows[rows["intervene"] != NO_INTERVENTION]
        for axis, value in demos.items():
            steered = steered[(steered["shots"] == 0) | (steered[axis] == value)]
        yield from _compared(view, {**setting, **demos}, zero, references, steered)


def _compared(
    view: "RunView", setting: Mapping[str, Any], zero: "DataFrame", references: "DataFrame", rows: "DataFrame"
) -> Iterator[dict[str, Any]]:
    sign = 1 if view.better == "higher" else -1
    for key, arm in rows.groupby(["intervene", "shots"], sort=False):
        name, shots = cast("tuple[str, int]", key)
        reference_shots = shots or int(references["shots"].max() if len(references) else 0)
        few = references[references["shots"] == reference_shots]
        parts = [_scores(view.metric, part, name) for part, name in ((zero, "zero"), (few, "few"), (arm, "arm"))]
        joined = parts[0].join(parts[1], how="inner").join(parts[2], how="inner")
        if not len(joined):
            continue
        before, after, steered = (sign * joined[column].to_numpy(float) for column in joined)
        clusters = arm.drop_duplicates(PAIR).set_index(PAIR)[UNIT].reindex(joined.index).to_numpy()
        yield {
            **setting,
            "intervene": name,
            "at_0": sign * before.mean(),
            "k": reference_shots,
            "at_k": sign * after.mean(),
            "steered": sign * steered.mean(),
            **recovery(before, after, steered, clusters),
            "n": len(joined),
        }


def recovery(before: Any, after: Any, steered: Any, clusters: Any) -> dict[str, float]:
    """'recovery' with 'low' and 'high', from paired scores [n] at 0 shots, at k shots, and with the intervention.

    NaN if demonstrations have no gain.
    """
    gain, own = after - before, steered - before
    total = float(gain.mean())
    if total <= 0:
        return {"recovery": np.nan, "low": np.nan, "high": np.nan}
    ratio = float(own.mean()) / total
    return interval_columns(ratio + (own - ratio * gain) / total, clusters, "recovery")


def _scores(metric: str, rows: "DataFrame", name: str) -> "DataFrame":
    """The mean score of each query and seed, in a column `name`."""
    return rows.groupby(PAIR)[[metric]].mean().rename(columns={metric: name})
