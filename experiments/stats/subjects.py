"""Subjects of findings: the samples of one task and setting, and two arms at the settings that both have."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from experiments.stats.arms import axis_values, describe_arm, iter_arms, matches_setting
from experiments.stats.formatting import join_words

if TYPE_CHECKING:
    from pandas import DataFrame


def drop_unscored_tasks(samples: "DataFrame", metric: str) -> "DataFrame":
    """The samples without the tasks that have no score of this metric (captions have no yes-ratio)."""
    attrs = samples.attrs
    scored = samples[samples.groupby("task")[metric].transform("count") > 0]
    scored.attrs = attrs
    return scored


def shared_settings(a: "DataFrame", b: "DataFrame", over: Sequence[str]) -> "tuple[tuple[DataFrame, DataFrame], str]":
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


def split_by_subject(frame: "DataFrame", settings: Sequence[str]) -> "Iterator[tuple[str, DataFrame]]":
    """(subject in words, samples) of each task and setting of the other axes, with the 0-shot arms that it shares."""
    keys = list(settings) or ["task"]
    arms = list(iter_arms(frame, [*keys, "shots"] if "shots" in frame else keys))
    subjects = dict.fromkeys(tuple(arm[key] for key in keys) for arm, _ in arms)
    for values in subjects:
        named = dict(zip(keys, values, strict=True))
        rows = [i for arm, own in arms if matches_setting(arm, named) for i in own.index]
        # "none" marks an axis that cannot matter at 0 shots, and is also a setting (no reranker, no transform)
        own_shots = any(arm.get("shots") != 0 and all(arm[key] == v for key, v in named.items()) for arm, _ in arms)
        if own_shots or not any(
            matches_setting({**named, "shots": 0}, dict(zip(keys, other, strict=True)))
            for other in subjects
            if other != values
        ):
            yield describe_arm(named) or ", ".join(f"{key} none" for key in keys), frame.loc[rows]
