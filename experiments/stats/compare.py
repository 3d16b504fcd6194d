"""Every arm against its reference arm: difference, interval, p, and p corrected for the family.

The reference of an arm is the arm that differs from it in the keys of `to` alone. Both stand on the same queries and
seeds, or the comparison is refused. Right/wrong metrics take the exact McNemar test (`significance`), graded
ones flips of clusters (`subsets`), those of a whole run a randomization test (`exchange`); Holm corrects over all rows,
or within each value of the axes `by`.

Two arms whose answers cannot differ (`experiments.store.equivalent_cells`) are not tested, and comparisons of arms that
are the same two by construction are one: none of these costs the others power. That is known before there are answers,
so nothing is chosen by how it came out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.config.keys import CORRECTIONS, DEFAULT_CORRECTION, DEFAULT_METRIC
from experiments.stats.arm_comparisons import Verdict, verdict_of
from experiments.stats.arms import (
    EQUIVALENCE,
    axes_of,
    better_of,
    describe_arm,
    find_baseline_column,
    iter_arms,
    reference_of,
    resolve_setting,
    tidy_frame,
    varying_axes,
)
from experiments.stats.pairs import KEYS, PairedTestResult, align_pairs, paired_test
from experiments.stats.significance import holm
from icl.errors import ConfigError, did_you_mean
from icl.metrics.base import Better
from icl.metrics.baselines import BASELINES

if TYPE_CHECKING:
    from pandas import DataFrame

BASELINE = "baseline"
"""`to={"baseline": "vote"}` compares every arm with what its own demonstrations say without a model."""

TEST_COLUMNS = [name for name in PairedTestResult.__dataclass_fields__ if name != "is_identical"]
RESULT_COLUMNS = ["reference", "reference_mean", "mean", *TEST_COLUMNS, "p_corrected", "family", "by_construction"]


def compare(
    frame: "DataFrame",
    to: Mapping[str, Any],
    metric: str = DEFAULT_METRIC,
    *,
    correct: str = DEFAULT_CORRECTION,
    by: Sequence[str] = (),
    axes: Sequence[str] | None = None,
    level: float = 0.95,
) -> "DataFrame":
    """A row an arm that has a reference arm, with the columns of RESULT after its axes.

    p_corrected is over `family` comparisons. by_construction: the arm answers as its reference whatever the model says;
    then p is NaN, and the row is in no family. `attrs` says how ("correct"), and which way is good ("better"). Raises
    ConfigError for an axis, value or metric that the frame lacks and where no arm has a reference; UnpairedError where
    two arms do not stand on the same queries and seeds.
    """
    import pandas as pd

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
        _against_baseline(samples, to, metric, axes, level=level, column=_column(frame, to, metric))
        if BASELINE in to
        else _against_arms(samples, to, metric, axes, level)
    )
    if not rows:
        raise ConfigError(
            f"no arm has a reference with {', '.join(f'{k}={v}' for k, v in to.items())} to stand against."
        )
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
    table = table[[*axes, *RESULT_COLUMNS]]
    if better_of(frame, metric) == "lower":  # a fall is from wrong to right
        turned = {"right_to_wrong": table["wrong_to_right"], "wrong_to_right": table["right_to_wrong"]}
        table = table.assign(**turned)
    table.attrs |= {"correct": correct, "better": better_of(frame, metric)}
    return table


def verdicts(table: "DataFrame") -> list[Verdict]:
    """For each row of a comparison: better or worse (or differs) where the corrected p is at most .05, else open."""
    better: Better = table.attrs.get("better", "higher")
    return [verdict_of(p, d, better) for p, d in zip(table["p_corrected"], table["difference"], strict=True)]


def _against_arms(
    samples: "DataFrame", to: Mapping[str, Any], metric: str, axes: Sequence[str], level: float
) -> list[dict[str, Any]]:
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
        result = paired_test(pairs, level, names)
        row = _row(arm, ", ".join(str(v) for v in to.values()), pairs, result)
        decided = _decided(theirs), _decided(mine)
        if None not in decided:
            row["compared"] = decided
            if decided[0] == decided[1]:
                row |= {"by_construction": True, "p": math.nan}
        rows.append(row)
    return rows


def _decided(rows: "DataFrame") -> frozenset[Any] | None:
    """What decides the answers of an arm, seed by seed; None where the frame does not say."""
    if EQUIVALENCE not in rows or not rows[EQUIVALENCE].astype(bool).all():
        return None
    return frozenset(rows[["seed", EQUIVALENCE]].itertuples(index=False, name=None))


def _against_baseline(
    samples: "DataFrame", to: Mapping[str, Any], metric: str, axes: Sequence[str], *, level: float, column: str
) -> list[dict[str, Any]]:
    name = str(to[BASELINE])
    rows = []
    for arm, mine in iter_arms(samples, axes):
        usable = mine[mine[column].notna()]
        if len(usable):
            names = (name, describe_arm(arm, varying_axes(samples, axes)))
            pairs = align_pairs(usable, usable, metric, on=KEYS, names=names, reference_metric=column)
            rows.append(_row(arm, name, pairs, paired_test(pairs, level, names)))
    return rows


def _column(frame: "DataFrame", to: Mapping[str, Any], metric: str) -> str:
    """The column of the baseline, judged by the metric. Raises ConfigError with those that there are."""
    name = str(to[BASELINE])
    if len(to) > 1:
        raise ConfigError(f"--to baseline={name}: no other key can stand beside it.")
    if column := find_baseline_column(frame, name, metric):
        return column
    have = [name for name in BASELINES if find_baseline_column(frame, name, metric)]
    there = f"There are {', '.join(have)}." if have else "It has none: they need demonstrations."
    near = did_you_mean(name, have)
    raise ConfigError(f"--to baseline={name}: the run has no such baseline judged by '{metric}'.{near} {there}")


def _row(arm: Mapping[str, Any], reference: str, pairs: Any, result: PairedTestResult) -> dict[str, Any]:
    means = {"reference": reference, "reference_mean": float(pairs.reference.mean()), "mean": float(pairs.arm.mean())}
    return {**arm, **means, **vars(result), "by_construction": False, "compared": object()}
