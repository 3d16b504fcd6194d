"""How much of the demonstrations' gain does an intervention recover? (acc_vec - acc_0) / (acc_k - acc_0), by arm

    recovery = (mean score with the vector - mean at 0 shots) / (mean at k shots - mean at 0 shots)

All three means are over the same queries and seeds. k is the number of shots of the arm itself, or the largest of the
run if the arm has no shots. Retrievers, rerankers and orders have means of their own: an arm with demonstrations is
compared with the same ones, an arm at 0 shots with each. There is no recovery if demonstrations have no significant
gain (p > .05 in pairs), because its denominator could then be 0.

    interval   Fieller (1954): all R for which the mean of dv - R dk is not distinguishable from 0, with dv and dk the
               gains of a sample over 0 shots (with the vector, with demonstrations) and their variances over clusters.
               Two more queries are added, half a query for each of the four pairs of gains of 0 and 1 (as Agresti and
               Min 2005 add half an answer to each cell): without them it has no width if the vector answers as
               demonstrations do. Its coverage with 40 and 100 queries is .93 to .97 (`python -m lab.bench recovery`).
    beyond     paired difference in score between the vector and its control, in the control's row. p and interval are
               corrected over the table (Holm).

Rows of the task `all` pool the pairs of several tasks, for each intervention that every task has once. Files count as
one if their names differ only in words of the task's label: `plus-heads.safetensors` on `operators · plus` and
`minus-heads.safetensors` on `operators · minus` are `fitted=heads`.

Run it with `zip: {shots: [0, 0, 8], intervene: [none, {name: task_vector, fitted: v.safetensors}, none]}` and
`controls: default`, which adds the controls of each vector.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from experiments import RunView, answered_samples, make_table, prefixed_interval, require_sample_metric
from experiments.config.keys import DEMONSTRATION_AXES, NO_INTERVENTION
from experiments.stats import SIGNIFICANCE_LEVEL, UNIT, Pairs, corrected_tests, iter_arms, paired_test, varying_axes
from experiments.stats.intervals import cluster_codes, cluster_sums, t_quantile
from icl import ConfigError, DataFrame

PAIR = ["query", "seed"]
"""The columns that two samples of a pair have in common."""

ALL_TASKS = "all"
FILE_OF_VECTORS = re.compile(r"fitted=([^,)]*)(, )?")
"""The part of an arm's label that names its file."""


@dataclass(frozen=True, eq=False)
class ComparedScores:
    """Scores of the same queries and seeds at 0 shots, with demonstrations, and with an intervention.

    Attributes:
        setting: Axis -> label.
        intervene: Label of the intervention.
        shots: Shots of the arm with the intervention.
        k: Shots of the demonstrations.
        before: Scores at 0 shots [n], the higher the better.
        after: Scores with demonstrations [n].
        steered: Scores with the intervention [n].
        clusters: Clusters of the pairs [n].
        keys: Query and seed of the pairs [n], with the number of the task if several are pooled.
    """

    setting: Mapping[str, Any]
    intervene: str
    shots: int
    k: int
    before: Any
    after: Any
    steered: Any
    clusters: Any
    keys: Any

    def row(self, sign: int) -> dict[str, Any]:
        """The row of the table. sign: -1 restores scores for which lower is better."""
        return {
            **self.setting,
            "intervene": self.intervene,
            "at_0": sign * self.before.mean(),
            "k": self.k,
            "at_k": sign * self.after.mean(),
            **prefixed_interval(sign * self.steered, self.clusters, "steered"),
            **recovery(self.before, self.after, self.steered, self.clusters),
            "n": len(self.steered),
        }


def analyze(view: RunView) -> DataFrame:
    """One row per intervention. Raises ConfigError if the run lacks interventions, 0 shots or demonstrations."""
    require_sample_metric(view)
    rows = answered_samples(view, with_demos=False)
    rows = rows[rows[view.metric].notna()]
    if "intervene" not in rows or set(rows["intervene"]) <= {NO_INTERVENTION}:
        raise ConfigError(f"{view.path}: no arm has an intervention (key `intervene`).")
    free = (*DEMONSTRATION_AXES, "shots", "intervene")
    groups = [axis for axis in view.axes if axis not in free and (axis == "task" or axis in varying_axes(rows, [axis]))]
    of_demos = varying_axes(rows[rows["shots"] > 0], [axis for axis in DEMONSTRATION_AXES if axis in view.axes])
    pairs = [one for setting, own in iter_arms(rows, groups) for one in _pairs(view, setting, of_demos, own)]
    sign = 1 if view.better == "higher" else -1
    every = [*pairs, *pooled(pairs)]
    table_rows = [one.row(sign) for one in every]
    _add_tests(table_rows, every, sign, view.interventions.controls)
    note = "recovery: share of the gain from demonstrations, empty if the gain is not significant; n: pairs"
    if any(view.interventions.controls.values()):
        note += "; beyond: paired difference between the vector and this control, p and interval after Holm"
    else:
        note += ". This run has no control of a vector: controls: default adds them"
    return make_table(
        table_rows,
        f"Recovery ({view.measure})",
        note=note,
        signed=("recovery", "low", "high", "beyond", "beyond_low", "beyond_high"),
        missing=f"{view.path}: recovery compares an intervention with the same queries at 0 shots and with "
        "demonstrations, both without intervention. In zip: shots: [0, 0, 8] and intervene: [none, {...}, none].",
    )


def _add_tests(
    rows: Sequence[dict[str, Any]],
    every: Sequence[ComparedScores],
    sign: int,
    controls: Mapping[str, Mapping[str, str]],
) -> None:
    """Adds the tests of vectors against their controls to the rows of the controls."""
    vectors = {control: vector for vector, own in controls.items() for control in own}
    for task in {one.setting["task"] for one in every}:  # rows of all tasks have labels without the task's words
        short = {label_without_task(control, task): label_without_task(own, task) for control, own in vectors.items()}
        vectors = short | vectors
    tested: dict[int, Pairs] = {}
    for place, one in enumerate(every):
        vector = vectors.get(one.intervene)
        own = next((o for o in every if (o.setting, o.intervene, o.shots) == (one.setting, vector, one.shots)), None)
        if own is not None:
            scores = dict(zip(own.keys, own.steered, strict=True))
            both = [i for i, key in enumerate(one.keys) if key in scores]
            mine = np.array([scores[one.keys[i]] for i in both])
            tested[place] = Pairs(sign * one.steered[both], sign * mine, one.clusters[both])
    results = dict(zip(tested, corrected_tests(list(tested.values())), strict=True))
    for place, row in enumerate(rows if tested else ()):
        test = results.get(place)
        names = {"beyond": "difference", "beyond_low": "low", "beyond_high": "high", "p": "p"}
        row |= {name: getattr(test, key) if test else np.nan for name, key in names.items()}


def pooled(pairs: Sequence[ComparedScores]) -> Iterator[ComparedScores]:
    """The pairs of all tasks, for each intervention that every task has once under `label_without_task`."""
    same: dict[tuple[Any, ...], list[ComparedScores]] = {}
    tasks = {one.setting["task"] for one in pairs}
    for one in pairs:
        label = label_without_task(one.intervene, one.setting["task"])
        rest = tuple((axis, value) for axis, value in one.setting.items() if axis != "task")
        same.setdefault((rest, label, one.shots, one.k), []).append(one)
    for (_, label, *_), own in same.items():
        if len(own) == len(tasks) > 1 and {one.setting["task"] for one in own} == tasks:
            scores: dict[str, Any] = {
                name: np.concatenate([getattr(one, name) for one in own]) for name in ("before", "after", "steered")
            }
            clusters = np.array([f"{i} {cluster}" for i, one in enumerate(own) for cluster in one.clusters])
            keys = [(i, *key) for i, one in enumerate(own) for key in one.keys]
            setting = {**own[0].setting, "task": ALL_TASKS}
            yield replace(own[0], setting=setting, intervene=label, clusters=clusters, keys=keys, **scores)


def label_without_task(label: str, task: str) -> str:
    """The label of an intervention, with its file name stripped of the suffix and of the words of the task's label."""
    words = set(re.findall(r"\w+", task))

    def rest(match: re.Match[str]) -> str:
        parts = re.split(r"[-_.]", match[1].removesuffix(".safetensors"))
        name = "-".join(part for part in parts if part not in words)
        return f"fitted={name}{match[2] or ''}" if name else ""

    return FILE_OF_VECTORS.sub(rest, label).replace(", )", ")").replace("()", "")


def _pairs(
    view: RunView, setting: Mapping[str, Any], of_demos: Sequence[str], rows: DataFrame
) -> Iterator[ComparedScores]:
    """The pairs of one setting, for each value of the axes `of_demos`. They have the 0-shot side in common."""
    plain = rows[rows["intervene"] == NO_INTERVENTION]
    zero = plain[plain["shots"] == 0]
    for demos, references in iter_arms(plain[plain["shots"] > 0], of_demos):
        steered = rows[rows["intervene"] != NO_INTERVENTION]
        for axis, value in demos.items():
            steered = steered[(steered["shots"] == 0) | (steered[axis] == value)]
        yield from _compared(view, {**setting, **demos}, zero, references, steered)


def _compared(
    view: RunView, setting: Mapping[str, Any], zero: DataFrame, references: DataFrame, rows: DataFrame
) -> Iterator[ComparedScores]:
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
        keys = list(joined.index)
        yield ComparedScores(setting, name, shots, reference_shots, before, after, steered, clusters, keys)


def _scores(metric: str, rows: DataFrame, name: str) -> DataFrame:
    """The mean score of each query and seed, in a column `name`."""
    return rows.groupby(PAIR)[[metric]].mean().rename(columns={metric: name})


def recovery(before: Any, after: Any, steered: Any, clusters: Any) -> dict[str, float]:
    """'recovery' with 'low' and 'high', from paired scores [n] at 0 shots, at k shots, and with the intervention.

    NaN if demonstrations have no significant gain.
    """
    test = paired_test(Pairs(before, after, np.asarray(clusters)))
    interval = fieller_interval(steered - before, after - before, clusters)
    if test.difference <= 0 or test.p > SIGNIFICANCE_LEVEL or interval is None:
        return {"recovery": np.nan, "low": np.nan, "high": np.nan}
    ratio = float((steered - before).mean()) / test.difference
    return {"recovery": ratio, "low": min(interval[0], ratio), "high": max(interval[1], ratio)}


def fieller_interval(own: Any, gain: Any, clusters: Any) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `own` over the mean of `gain`, both [n]; None if it has no end."""
    codes, both = cluster_codes(clusters), np.stack([gain, own], axis=1)
    sums = np.stack([cluster_sums(column, codes)[0] for column in both.T], axis=1)
    sizes = np.bincount(codes).astype(np.float64)
    more = max(1.0, float(np.abs(both).max())) * np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    number, count = len(both) + 2, len(sizes) + 2
    means = (both.sum(axis=0) + more.sum(axis=0) / 2) / number
    spread = np.concatenate([sums - sizes[:, None] * means, (more - means) / 2**0.5])
    quantile = t_quantile(sizes, 0.95)
    a, b, _, c = (np.outer(means, means) - quantile**2 * count / (count - 1) * spread.T @ spread / number**2).ravel()
    if a <= 0:
        return None
    half = max(b * b - a * c, 0.0) ** 0.5
    return float(b - half) / float(a), float(b + half) / float(a)
