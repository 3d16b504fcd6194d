"""Arms of a frame: which settings were run, and which arm an arm is compared with.

A frame of samples has one row a sample: `query`, `seed`, maybe `group`, a column an axis (labels; `shots` whole
numbers) and a column a metric. An arm is one combination of axis values, over all its seeds. An axis that cannot
matter (the retriever at 0 shots) has the value 'none'.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.keys import AXES, DEMONSTRATION_AXES
from experiments.grid.label_matching import match_label
from experiments.stats.formatting import format_count
from experiments.stats.run_statistics import sample_ref_column
from icl.errors import ConfigError, did_you_mean
from icl.metrics.base import Better
from icl.registry import entries, resolve

if TYPE_CHECKING:
    from pandas import DataFrame

NO_VALUE = "none"
UNIT = "unit"
EQUIVALENCE = "decided_by"
"""A column, where a frame has it: what decides a sample's answer (`experiments.store.equivalent_cells`)."""
Arm = dict[str, Any]


def axes_of(frame: "DataFrame") -> tuple[str, ...]:
    """The frame's axes: as it says in `attrs['axes']`, or those of AXES that it has."""
    return tuple(frame.attrs.get("axes") or (axis for axis in AXES if axis in frame))


def better_of(frame: "DataFrame", metric: str) -> Better:
    """Which way of a metric is good: as the frame says in `attrs['better']`, else higher."""
    better: Better = frame.attrs.get("better", {}).get(metric, "higher")
    return better


def is_accuracy(metric: str) -> bool:
    """Whether the metric of this name says that it is a share of right answers."""
    return metric in entries("metric") and bool(getattr(resolve("metric", metric), "accuracy", False))


def baseline_column(baseline: str, metric: str) -> str:
    """The column of a baseline as one metric judges it: 'vote:strict'."""
    return f"{baseline}:{metric}"


def find_baseline_column(frame: "DataFrame", baseline: str, metric: str) -> str | None:
    """The column of a baseline as this metric judges it; None where it does not, since two scales are not compared.

    A frame that does not say what judged (an older run, which took strict or its first metric; a frame made by hand)
    has the one column `vote`: it stands for every metric of samples of which higher is good.
    """
    if (column := baseline_column(baseline, metric)) in frame:
        return column
    has_judged = any(str(other).startswith(baseline_column(baseline, "")) for other in frame)
    fits = better_of(frame, metric) == "higher" and sample_ref_column(metric) not in frame
    return baseline if baseline in frame and not has_judged and fits else None


def tidy_frame(frame: "DataFrame", axes: Sequence[str]) -> "DataFrame":
    """A copy with plain labels on its axes, 'none' where an axis cannot matter, and the column UNIT. Done once.

    UNIT numbers what belongs together: the sample's group, or its query where there is none, within its task.
    """
    import pandas as pd

    if UNIT in frame:
        return frame
    tidy = frame.copy(deep=False)
    tidy.attrs = {}
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


def varying_axes(frame: "DataFrame", axes: Sequence[str]) -> tuple[str, ...]:
    """The axes with more than one value. 'none' counts as one only where it stands against one other value."""
    return tuple(axis for axis in axes if frame[axis].nunique(dropna=False) > 1)


def iter_arms(frame: "DataFrame", axes: Sequence[str]) -> Iterator[tuple[Arm, "DataFrame"]]:
    """Each arm and its samples, in order of first appearance. The frame is tidy."""
    if not axes:
        yield {}, frame
        return
    for values, rows in frame.groupby(list(axes), sort=False, dropna=False):
        yield dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True)), rows


def axis_values(frame: "DataFrame", axis: str) -> list[Any]:
    """The values of an axis in order: numbers by size, labels by first appearance, 'none' first."""
    values = list(dict.fromkeys(frame[axis]))
    if all(isinstance(value, int | float) for value in values):
        return sorted(values)
    return sorted(values, key=lambda value: value != NO_VALUE)


def resolve_setting(frame: "DataFrame", setting: Mapping[str, Any], axes: Sequence[str], what: str) -> Arm:
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
    """'mask_only' of 'mask_only(vcd(alpha=0.5)), temperature=1' where it is told of 'vcd(alpha=0.5), temperature=1'."""
    ends = (i for i, letter in enumerate(arm) if letter == "," and arm[:i].count("(") == arm[:i].count(")"))
    end = next(ends, len(arm))
    own = control.removesuffix(arm[end:])
    return own.removesuffix(f"({arm[:end]})")


def reference_of(arm: Arm, to: Mapping[str, Any], candidates: Sequence[Arm]) -> Arm | None:
    """The arm that differs from `arm` in the keys of `to` alone; what cannot matter to it need not agree.

    None where `arm` is a reference itself, and where there is no such arm (at 0 shots there is none of a retriever).
    """
    if all(arm[key] == value for key, value in to.items()):
        return None
    reference = {**arm, **to}
    fitting = [
        c for c in candidates if matches_setting(c, reference) and all(c[key] == value for key, value in to.items())
    ]
    return next((c for c in fitting if c == reference), fitting[0] if fitting else None)


def matches_setting(arm: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Whether the arm has this setting, or is a 0-shot arm to which the axes where it differs cannot matter."""
    free = DEMONSTRATION_AXES if arm.get("shots") == 0 else ()
    return all(arm[axis] == value or (arm[axis] == NO_VALUE and axis in free) for axis, value in setting.items())


def describe_arm(arm: Mapping[str, Any], axes: Sequence[str] | None = None) -> str:
    """'knn, 4 shots, greedy': an arm in words, axes that are 'none' left out."""
    words = []
    for axis in axes if axes is not None else arm:
        value = arm[axis]
        if axis == "shots":
            words.append(format_count(value, "shot"))
        elif value != NO_VALUE:
            words.append(str(value))
    return ", ".join(words)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | float | str) else str(value)
