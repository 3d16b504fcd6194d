"""The table of comparisons: every arm against its reference, with difference, interval, p and corrected p.

The reference of an arm is the arm that differs from it in the keys of `to` alone. Both must have the same queries and
seeds, otherwise the comparison is refused. Right/wrong metrics use the exact McNemar test (`significance`), graded ones
sign flips of clusters (`sign_flips`), run-level metrics a randomization test (`exchanges`). Holm corrects
p and intervals over all rows, or within each value of the axes `by`.

Two arms are not tested if their answers cannot differ (`experiments.store.run_state`). Comparisons of equivalent
pairs of arms count once. Both cost the other comparisons no power, and both are known before there are answers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.config.keys import CORRECTIONS, DEFAULT_CORRECTION, DEFAULT_METRIC
from experiments.stats.arm_comparisons import Verdict, verdict_of
from experiments.stats.arms import (
    axes_of,
    better_of,
    deciding_digests,
    describe_arm,
    find_baseline_column,
    iter_arms,
    reference_of,
    resolve_setting,
    tidy_frame,
    varying_axes,
)
from experiments.stats.bounds import TestedArms, labeled_test
from experiments.stats.pairs import KEYS, PairedTestResult, align_pairs
from experiments.stats.significance import holm
from icl import Better, ConfigError, DataFrame, did_you_mean, pd
from icl.metrics.base import BASELINES

BASELINE = "baseline"
"""`to={"baseline": "vote"}` compares every arm with the majority vote of its demonstrations."""

TEST_COLUMNS = [name for name in PairedTestResult.__dataclass_fields__ if name != "is_identical"]
RESULT_COLUMNS = ["reference", "reference_mean", "mean", *TEST_COLUMNS, "p_corrected", "family", "by_construction"]
LABELS = "labels"
"""A further column of a run with labels: how many unread outputs they settle (`experiments.stats.settled`)."""
BOUND_COLUMNS = ["difference_low", "difference_high", "unread", "favorable_p"]
"""Further columns of a table with unread outputs: the bounds of the difference, and the share of these outputs."""


def compare(
    frame: DataFrame,
    to: Mapping[str, Any],
    metric: str = DEFAULT_METRIC,
    *,
    correct: str = DEFAULT_CORRECTION,
    by: Sequence[str] = (),
    axes: Sequence[str] | None = None,
) -> DataFrame:
    """Compares every arm of a frame with its reference.

    Args:
        frame: The samples.
        to: The setting of the reference, such as {"decoding": "greedy"}, or {"baseline": "vote"}.
        metric: The column of scores.
        correct: The correction of p for several tests, 'holm' or 'none'.
        by: Axes; p is corrected within each of their values.
        axes: The axes of the frame, by default those that it has.

    Returns:
        One row per arm with a reference: its axes, then RESULT_COLUMNS, for a run with labels LABELS, and with unread
        outputs BOUND_COLUMNS (`bounds`).
        `p_corrected` is over `family` comparisons, and the interval leaves out 0 exactly if it is at most .05. If
        `by_construction` is true the arm always answers as its reference; then p is NaN and the row is in no family.
        `attrs` has the correction ("correct") and the good direction of the metric ("better").

    Raises:
        ConfigError: If the frame lacks an axis, value or metric, or if no arm has a reference.
        UnpairedError: If two arms do not have the same queries and seeds.
    """
    axes = tuple(axes if axes is not None else axes_of(frame))
    columns = [c for c in frame.columns if c not in axes]
    if metric not in frame:
        raise ConfigError(f"--metric: the run has no score '{metric}'.{did_you_mean(metric, columns)}")
    if correct not in CORRECTIONS:
        raise ConfigError(f"correct is {' or '.join(CORRECTIONS)}, not '{correct}'.")
    samples = tidy_frame(frame, axes)
    resolve_setting(samples, {axis: samples[axis].iloc[0] for axis in by if axis in axes}, axes, "--by")
    if wrong := [axis for axis in by if axis not in axes]:
        raise ConfigError(
            f"--by: the run has no axis '{wrong[0]}'.{did_you_mean(wrong[0], axes)} Axes: {', '.join(axes)}."
        )
    rows = (
        _against_baseline(samples, to, metric, axes, column=_column(frame, to, metric))
        if BASELINE in to
        else _against_arms(samples, to, metric, axes)
    )
    if not rows:
        raise ConfigError(f"no arm has a reference with {', '.join(f'{k}={v}' for k, v in to.items())}")
    table = pd.DataFrame(rows)
    families = table.groupby(list(by), sort=False).ngroup() if by else pd.Series(0, index=table.index)
    for _, rows_of in table.groupby(families, sort=False):
        tested = rows_of[~rows_of["by_construction"]]
        distinct = tested.drop_duplicates("compared")
        adjusted = holm(distinct["p"]) if correct == "holm" else distinct["p"].to_numpy()
        corrected = dict(zip(distinct["compared"], adjusted, strict=True))
        table.loc[rows_of.index, "p_corrected"] = [corrected.get(key, math.nan) for key in rows_of["compared"]]
        table.loc[rows_of.index, "family"] = len(distinct)
    table["family"] = table["family"].astype(int)
    if correct == "holm":
        tested = table.loc[~table["by_construction"], ["interval_of", "p", "p_corrected", "family"]]
        ends = [interval(*numbers) for interval, *numbers in tested.itertuples(index=False)]
        table.loc[tested.index, ["low", "high"]] = np.array(ends, dtype=float).reshape(-1, 2)
    further = [LABELS] if table[LABELS].any() else []
    if table["bounds"].notna().any():
        table, further = table.assign(**_bound_columns(table)), [*further, *BOUND_COLUMNS]
    table = table[[*axes, *RESULT_COLUMNS, *further]]
    if better_of(frame, metric) == "lower":  # a fall is from wrong to right
        turned = {"right_to_wrong": table["wrong_to_right"], "wrong_to_right": table["right_to_wrong"]}
        table = table.assign(**turned)
    table.attrs |= {"correct": correct, "better": better_of(frame, metric)}
    return table


def verdicts(table: DataFrame) -> list[Verdict]:
    """The verdict of each row of a comparison: 'open' or 'undecided' if the corrected p is above .05."""
    better: Better = table.attrs.get("better", "higher")
    favorable = table["favorable_p"] if "favorable_p" in table else [math.nan] * len(table)
    rows = zip(table["p_corrected"], table["difference"], favorable, strict=True)
    return [verdict_of(p, difference, better, favorable_p) for p, difference, favorable_p in rows]


def _against_arms(samples: DataFrame, to: Mapping[str, Any], metric: str, axes: Sequence[str]) -> list[dict[str, Any]]:
    to = resolve_setting(samples, to, axes, "--to")
    arms = list(iter_arms(samples, axes))
    label_axes = varying_axes(samples, axes)
    rows = []
    for arm, mine in arms:
        reference = reference_of(arm, to, [other for other, _ in arms])
        if reference is None:
            continue
        theirs = next(rows for other, rows in arms if other == reference)
        names = (describe_arm(reference, label_axes), describe_arm(arm, label_axes))
        pairs = align_pairs(theirs, mine, metric, names=names)
        tested = labeled_test((theirs, mine), pairs, metric, names=names)
        row = _row(arm, ", ".join(str(v) for v in to.values()), tested)
        decided = deciding_digests(theirs), deciding_digests(mine)
        if None not in decided:
            row["compared"] = decided
            if decided[0] == decided[1]:
                row |= {"by_construction": True, "p": math.nan}
        rows.append(row)
    return rows


def _against_baseline(
    samples: DataFrame, to: Mapping[str, Any], metric: str, axes: Sequence[str], *, column: str
) -> list[dict[str, Any]]:
    name = str(to[BASELINE])
    rows = []
    for arm, mine in iter_arms(samples, axes):
        usable = mine[mine[column].notna()]
        if len(usable):
            names = (name, describe_arm(arm, varying_axes(samples, axes)))
            pairs = align_pairs(usable, usable, metric, on=KEYS, names=names, reference_metric=column)
            rows.append(_row(arm, name, labeled_test((usable, usable), pairs, metric, column, names=names)))
    return rows


def _column(frame: DataFrame, to: Mapping[str, Any], metric: str) -> str:
    """The column of the baseline under the metric. Raises ConfigError with the baselines that exist."""
    name = str(to[BASELINE])
    if len(to) > 1:
        raise ConfigError(f"--to baseline={name}: it cannot be combined with another key.")
    if column := find_baseline_column(frame, name, metric):
        return column
    have = [name for name in BASELINES if find_baseline_column(frame, name, metric)]
    there = f"There are {', '.join(have)}." if have else "It has none: they need demonstrations."
    near = did_you_mean(name, have)
    raise ConfigError(f"--to baseline={name}: the run has no such baseline judged by '{metric}'.{near} {there}")


def _row(arm: Mapping[str, Any], reference: str, tested: TestedArms) -> dict[str, Any]:
    """A row of the table before correction."""
    result, bounds, interval, means, labels = tested
    row = {**arm, "reference": reference, "reference_mean": means[0], "mean": means[1], **vars(result)}
    internal = {"compared": object(), "interval_of": interval, "bounds": bounds}
    return {**row, "by_construction": False, LABELS: labels, **internal}


def _bound_columns(table: DataFrame) -> dict[str, Any]:
    """The BOUND_COLUMNS; a row whose outputs are all read has its difference twice."""
    ends: list[tuple[float, float, float, float]] = [
        (difference, difference, 0.0, math.nan)
        if bounds is None
        else (bounds.low, bounds.high, bounds.unread, bounds.favorable_p)
        for difference, bounds in zip(table["difference"], table["bounds"], strict=True)
    ]
    return dict(zip(BOUND_COLUMNS, zip(*ends, strict=True), strict=True))
