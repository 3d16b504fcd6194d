"""A run by a column of its data: scores in each part, macro averages, and tests of whether effects differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import TYPE_CHECKING, Any

from experiments.results.data_columns import missing_note, split_view
from experiments.stats.arm_comparisons import ArmComparison
from experiments.stats.arms import UNIT, axis_values, describe_arm, iter_arms, varying_axes
from experiments.stats.findings import Finding
from experiments.stats.formatting import format_count, format_p, format_signed
from experiments.stats.interactions import ArmInteraction, PartEffect, arm_interactions
from experiments.stats.pairs import PairedTestResult, UnpairedError
from experiments.stats.parts import estimate_macro_average
from experiments.stats.significance import SIGNIFICANCE_LEVEL, holm
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView
    from experiments.stats.intervals import Estimate


@dataclass(frozen=True, eq=False)
class ColumnEffects:
    """A run by one column of its data.

    Attributes:
        name: The name of the column.
        view: The view with the column as an axis; None if the run cannot be divided by it.
        interactions: The tests of whether the effect of an arm differs between the values; p is not corrected over
        arms.
        refused: Why there is no view, or no test; else ''.
        note: A sentence on queries without a value, or ''.
    """

    name: str
    view: "RunView | None"
    interactions: Sequence[ArmInteraction] = ()
    refused: str = ""
    note: str = ""

    @property
    def values(self) -> list[Any]:
        """The values of the column."""
        return [] if self.view is None else axis_values(self.view.scores, self.name)


def column_effects(view: "RunView", name: str) -> ColumnEffects:
    """The run by a column. A column that does not divide it is not raised."""
    try:
        split = split_view(view, [name])
    except ConfigError as error:
        return ColumnEffects(name, None, refused=str(error).removeprefix("--by: "))
    note = missing_note(split.scores[name], split.scores["query"], name)
    if view.is_sequential:
        return ColumnEffects(name, split, refused=view.sequential_note, note=note)
    if not view.to or all(view.scores[axis].nunique() < 2 for axis in view.to):
        return ColumnEffects(name, split, note=note)
    try:
        tests = arm_interactions(split.scores, name, view.to, view.metric, axes=view.axes)
    except UnpairedError as error:
        return ColumnEffects(name, split, refused=str(error), note=note)
    return ColumnEffects(name, split, tests, note=note)


def macro_averages(effects: ColumnEffects) -> "list[tuple[dict[str, Any], Estimate]]":
    """(arm, its mean over the values of the column) of each arm with scores at two values or more."""
    if effects.view is None:
        return []
    axes = [axis for axis in effects.view.axes if axis != effects.name]
    averages = (
        (arm, estimate_macro_average(rows, effects.view.metric, effects.name, UNIT))
        for arm, rows in iter_arms(effects.view.paired_scores, axes)
    )
    return [(arm, average) for arm, average in averages if average is not None]


def interactions_frame(effects: ColumnEffects) -> "DataFrame":
    """One row per arm and value of the column.

    Returns:
        The axes of the arm, the column, `reference`, `difference` (of the arm there), `contrast` (that difference minus
        the one on all other values) with `low` and `high`, `p_value` (of the contrast, corrected over the values), `p`
        (that no value differs), `p_corrected` (Holm over the arms), `pairs` and `clusters`.
    """
    import pandas as pd

    view = effects.view
    if view is None:
        return pd.DataFrame()
    axes = [axis for axis in view.axes if axis != effects.name]
    tested = [one for one in effects.interactions if not one.by_construction]
    adjusted = dict(zip(map(id, tested), holm([one.interaction.p for one in tested]), strict=True))
    rows = [
        {
            **one.arm,
            effects.name: value,
            "reference": describe_arm(one.reference, list(view.to)),
            **vars(part),
            "p_value": part.p,
            "p": one.interaction.p,
            "p_corrected": float(adjusted.get(id(one), nan)),
        }
        for one in effects.interactions
        for value, part in zip(one.values, one.interaction.parts, strict=True)
    ]
    columns = [*axes, effects.name, "reference", "difference", "contrast", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "p_value", "p", "p_corrected", "pairs", "clusters"])


def interaction_comparisons(effects: ColumnEffects) -> list[ArmComparison]:
    """The omnibus test of each arm as one comparison of the page: its difference is the largest contrast."""
    view = effects.view
    if view is None:
        return []
    base = [axis for axis in view.axes if axis != effects.name]
    names = [axis for axis in varying_axes(view.scores, base) if axis not in view.to]
    comparisons = []
    for one in effects.interactions:
        value, part = largest_contrast(one)
        pairs = sum(other.pairs for other in one.interaction.parts)
        result = PairedTestResult(
            difference=part.contrast,
            low=part.low,
            high=part.high,
            p=one.interaction.p,
            pairs=pairs,
            clusters=part.clusters,
            test="randomization",
            right_to_wrong=None,
            wrong_to_right=None,
            dropped_pairs=0,
        )
        rest = part.difference - part.contrast
        comparisons.append(
            ArmComparison(
                subject=describe_arm(one.arm, names) or effects.name,
                arm=describe_arm(one.arm, list(view.to)),
                against=describe_arm(one.reference, list(view.to)),
                result=result,
                p=nan if one.by_construction else one.interaction.p,
                n=f"n = {format_count(pairs, 'pair')}",
                pooled=f"{effects.name}: {format_signed(part.difference)} at {value}, {format_signed(rest)} elsewhere",
                better="neither",
                interval=partial(_interval_of_contrast, part, len(one.values)),
            )
        )
    return comparisons


def _interval_of_contrast(part: PartEffect, parts: int, _: float, corrected: float, family: int) -> tuple[float, float]:
    """The interval of a contrast that agrees with a p that was corrected for its parts and for a family of tests."""
    return part.interval(corrected, parts * family)


def largest_contrast(one: ArmInteraction) -> tuple[Any, PartEffect]:
    """The value with the smallest p, and the effect there."""
    parts = zip(one.values, one.interaction.parts, strict=True)
    return min(parts, key=lambda pair: (pair[1].p, -abs(pair[1].contrast)))


def describe_interactions(comparisons: Sequence[ArmComparison], columns: Sequence[str]) -> Iterator[Finding]:
    """A sentence for each effect that differs between values, and one for all effects that do not."""
    by = " or ".join(columns)
    tested = [t for t in comparisons if not t.by_construction]
    for t in tested:
        if t.verdict == "differs":
            claim = f"the difference of {t.arm} from {t.against} depends on {t.pooled}, contrast"
            yield Finding("By column", t.subject, claim, t.numbers, "", "differs")
    if still := [t for t in tested if t.verdict == "open"]:
        least = min(still, key=lambda t: t.p)
        claim = (
            f"{format_count(len(still), 'difference')} between arms {'does' if len(still) == 1 else 'do'} not depend "
            f"detectably on {by} (smallest {format_p(least.p)})"
        )
        yield Finding("By column", by, claim, "", "", "open")


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a row of `interactions_frame` is a contrast that differs, of an arm whose test is significant."""
    return bool(row["p_corrected"] <= SIGNIFICANCE_LEVEL and row["p_value"] <= SIGNIFICANCE_LEVEL)
