"""Arms of a frame: the settings that were run, and the reference of each arm.

A frame has one row per sample: `query`, `seed`, an optional `group`, one column per axis (labels; `shots` are whole
numbers) and one per metric. An arm is one combination of axis values over all its seeds. An axis that cannot matter
(the retriever at 0 shots) has the value 'none'.

A subject of findings is the samples of one task and setting; two arms are compared at the settings that both have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.config import AXES, DEMONSTRATION_AXES, match_label
from experiments.stats.formatting import format_count, join_words
from experiments.stats.run_level_frames import RUN_LEVEL, is_run_level
from icl import Better, ConfigError, DataFrame, did_you_mean, entries, pd, resolve

NO_VALUE = "none"
MISSING_VALUE = "(no value)"
"""The label of samples without a value in a column of the data (`experiments.stats.summary`)."""
MAIN_AXES = ("task", "shots", "retriever", "decoding")
UNIT = "unit"
EQUIVALENCE = "decided_by"
"""An optional column: a digest of what determines a sample's answer (`experiments.store.run_state`)."""
Arm = dict[str, Any]


def deciding_digests(rows: DataFrame) -> frozenset[Any] | None:
    """The digests of what determines an arm's answers, with their seeds; None if the frame lacks them."""
    digests = rows[EQUIVALENCE].tolist() if EQUIVALENCE in rows else [""]  # 30 times as fast as pandas, for each pair
    return frozenset(zip(rows["seed"].tolist(), digests, strict=True)) if all(digests) else None


def axes_of(frame: DataFrame) -> tuple[str, ...]:
    """The axes in `attrs['axes']`, or else the columns that are axes."""
    return tuple(frame.attrs.get("axes") or (axis for axis in AXES if axis in frame))


def better_of(frame: DataFrame, metric: str) -> Better:
    """The good direction of a metric: the entry in `attrs['better']`, else 'higher'."""
    better: Better = frame.attrs.get("better", {}).get(metric, "higher")
    return better


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a proportion of right answers."""
    return metric in entries("metric") and bool(getattr(resolve("metric", metric), "accuracy", False))


def baseline_column(baseline: str, metric: str) -> str:
    """The column of a baseline under one metric, such as 'vote:strict'."""
    return f"{baseline}:{metric}"


def unread_column(metric: str) -> str:
    """The column with the text of each output that a metric cannot read with certainty; '' or missing if it is read."""
    return f"unread:{metric}"


def find_baseline_column(frame: DataFrame, baseline: str, metric: str) -> str | None:
    """The column of a baseline under a metric, or None if the frame lacks it.

    A frame of an older run, or one made by hand, has a single column such as `vote`. It is used for every sample-level
    metric with better = 'higher'.
    """
    if (column := baseline_column(baseline, metric)) in frame:
        return column
    has_judged = any(str(other).startswith(baseline_column(baseline, "")) for other in frame)
    fits = better_of(frame, metric) == "higher" and not is_run_level(frame, metric)
    return baseline if baseline in frame and not has_judged and fits else None


def tidy_frame(frame: DataFrame, axes: Sequence[str]) -> DataFrame:
    """A copy with plain axis labels, 'none' for missing ones, and the column UNIT. A tidy frame is returned as it is.

    UNIT numbers the independent units of a task: the sample's group, or its query if it has no group.
    """
    if UNIT in frame:
        return frame
    tidy = frame.copy(deep=False)
    tidy.attrs = {RUN_LEVEL: frame.attrs[RUN_LEVEL]} if RUN_LEVEL in frame.attrs else {}
    for axis in axes:
        codes, values = pd.factorize(tidy[axis])
        labels = np.array([*(_plain(value) for value in values), NO_VALUE], dtype=object)
        tidy[axis] = pd.Series(labels[codes], index=tidy.index, dtype=object)
    unit = tidy["query"].astype(str)
    if "group" in tidy:
        unit = ("group " + tidy["group"].astype(str)).where(tidy["group"].notna(), "query " + unit)
    if "task" in tidy:
        unit = tidy["task"].astype(str) + "\x1f" + unit
    tidy[UNIT] = pd.factorize(unit)[0]
    return tidy


def scored_rows(rows: DataFrame, metric: str) -> DataFrame:
    """The rows that have a score: no copy, if all have one."""
    scored = rows[metric].notna()
    return rows if scored.all() else rows[scored]


def varying_axes(frame: DataFrame, axes: Sequence[str]) -> tuple[str, ...]:
    """The axes with more than one value."""
    return tuple(axis for axis in axes if frame[axis].nunique(dropna=False) > 1)


def drop_constant_axes(frame: DataFrame, axes: Sequence[str]) -> DataFrame:
    """The frame without axes that have a single value, except MAIN_AXES."""
    return frame.drop(columns=[axis for axis in axes if axis not in MAIN_AXES and frame[axis].nunique() < 2])


def label_axes(frame: DataFrame, axes: Sequence[str]) -> list[str]:
    """The axes that name an arm in a table: task, shots, and those with more than one value."""
    varying = varying_axes(frame, axes)
    return [axis for axis in axes if axis in ("task", "shots") or axis in varying]


def iter_arms(frame: DataFrame, axes: Sequence[str]) -> Iterator[tuple[Arm, DataFrame]]:
    """Each arm of a tidy frame with its samples, in order of first appearance."""
    if not axes:
        yield {}, frame
        return
    for values, rows in frame.groupby(list(axes), sort=False, dropna=False):
        yield dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True)), rows


def axis_values(frame: DataFrame, axis: str) -> list[Any]:
    """The values of an axis: numbers in ascending order, labels in order of first appearance.

    'none' comes first, and MISSING_VALUE last.
    """
    every = dict.fromkeys(frame[axis].drop_duplicates())
    values = [value for value in every if value != MISSING_VALUE]
    is_numeric = all(isinstance(value, int | float) for value in values)
    ordered = sorted(values) if is_numeric else sorted(values, key=lambda value: value != NO_VALUE)
    return [*ordered, *([MISSING_VALUE] if MISSING_VALUE in every else [])]


def resolve_setting(frame: DataFrame, setting: Mapping[str, Any], axes: Sequence[str], what: str) -> Arm:
    """`setting` in the frame's own values: '0' finds 0. Raises ConfigError for an unknown axis or value."""
    arm: Arm = {}
    for axis, label in setting.items():
        if axis not in axes:
            raise ConfigError(
                f"{what}: the run has no axis '{axis}'.{did_you_mean(axis, axes)} Axes: {', '.join(axes)}."
            )
        have = {str(value): value for value in axis_values(frame, axis)}
        arm[axis] = have[match_label(label, list(have), axis, what)]
    return arm


def short_control_name(control: str, arm: str) -> str:
    """A control's label without the arm that it wraps: 'mask_only' for 'mask_only(vcd)' and 'vcd'."""
    ends = (i for i, letter in enumerate(arm) if letter == "," and arm[:i].count("(") == arm[:i].count(")"))
    end = next(ends, len(arm))
    own = control.removesuffix(arm[end:])
    return own.removesuffix(f"({arm[:end]})")


def reference_of(arm: Arm, to: Mapping[str, Any], candidates: Sequence[Arm]) -> Arm | None:
    """The arm that differs from `arm` in the keys of `to` alone. Axes that cannot matter to it may differ too.

    Returns:
        None if `arm` is a reference itself, or if no such arm was run.
    """
    if all(arm[key] == value for key, value in to.items()):
        return None
    reference = {**arm, **to}
    fitting = [
        c for c in candidates if matches_setting(c, reference) and all(c[key] == value for key, value in to.items())
    ]
    return next((c for c in fitting if c == reference), fitting[0] if fitting else None)


def iter_compared_arms(
    frame: DataFrame, to: Mapping[str, Any], axes: Sequence[str]
) -> Iterator[tuple[Arm, Arm, DataFrame, DataFrame]]:
    """(arm, its reference, samples of the reference, samples of the arm) of each arm that has a reference."""
    arms = list(iter_arms(frame, axes))
    for arm, mine in arms:
        reference = reference_of(arm, to, [other for other, _ in arms])
        if reference is not None:
            yield arm, reference, next(rows for other, rows in arms if other == reference), mine


def matches_setting(arm: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Whether the arm has this setting, or is a 0-shot arm that differs only in axes that cannot matter to it."""
    free = DEMONSTRATION_AXES if arm.get("shots") == 0 else ()
    return all(arm[axis] == value or (arm[axis] == NO_VALUE and axis in free) for axis, value in setting.items())


def describe_arm(arm: Mapping[str, Any], axes: Sequence[str] | None = None) -> str:
    """An arm in words, such as 'knn, 4 shots, greedy'. Values 'none' are left out, unless nothing else is there."""
    words = []
    axes = tuple(axes if axes is not None else arm)
    for axis in axes:
        value = arm[axis]
        if axis == "shots":
            words.append(format_count(value, "shot"))
        elif value != NO_VALUE:
            words.append(str(value))
    return ", ".join(words or [f"{axis} {NO_VALUE}" for axis in axes])


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | float | str) else str(value)


def drop_unscored_tasks(samples: DataFrame, metric: str) -> DataFrame:
    """The samples without the tasks that have no score of this metric (captions have no yes-ratio)."""
    attrs = samples.attrs
    scored = samples[samples.groupby("task")[metric].transform("count") > 0]
    scored.attrs = attrs
    return scored


def shared_settings(a: DataFrame, b: DataFrame, over: Sequence[str]) -> tuple[tuple[DataFrame, DataFrame], str]:
    """Both frames restricted to the settings of the axes `over` that both have, and those settings in words."""
    over = [axis for axis in over if axis in a]
    if not over or not len(a) or not len(b):
        return (a, b), ""
    left, right = (frame.set_index(over).index for frame in (a, b))
    a, b = a[left.isin(right)], b[right.isin(left)]
    pooled = [
        f"{join_words([str(v) for v in axis_values(b, axis)])} {axis}" for axis in over if axis == "shots" and len(b)
    ]
    several = any(b[axis].nunique() > 1 for axis in over)
    return (a, b), f" over {' and '.join(pooled)}" if several and pooled else ""


def split_by_subject(frame: DataFrame, settings: Sequence[str]) -> Iterator[tuple[str, DataFrame]]:
    """(subject in words, samples) of each task and setting of the other axes, with the 0-shot arms that it shares."""
    keys = list(settings) or ["task"]
    by = [*keys, "shots"] if "shots" in frame else keys
    arms = list(iter_arms(frame[by], by))  # their rows are named by the index: no other column is copied
    subjects = dict.fromkeys(tuple(arm[key] for key in keys) for arm, _ in arms)
    for values in subjects:
        named = dict(zip(keys, values, strict=True))
        rows = np.concatenate([own.index for arm, own in arms if matches_setting(arm, named)])
        # "none" marks an axis that cannot matter at 0 shots, and is also a setting (no reranker, no transform)
        own_shots = any(arm.get("shots") != 0 and all(arm[key] == v for key, v in named.items()) for arm, _ in arms)
        if own_shots or not any(
            matches_setting({**named, "shots": 0}, dict(zip(keys, other, strict=True)))
            for other in subjects
            if other != values
        ):
            yield describe_arm(named) or ", ".join(f"{key} none" for key in keys), frame.loc[rows]
