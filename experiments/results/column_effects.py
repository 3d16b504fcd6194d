"""A run by a column of its data: scores in each part, macro averages, and tests of whether effects differ.

Effects differ between parts if differences of paired differences, over clusters, are not 0 (`interaction_test`).

    effect     d_v = mean of (arm - reference) over the pairs of part v, such as the adversarial questions
    contrast   T_v = d_v - mean of (arm - reference) over the pairs of all other parts
    null       every part has the same effect
    flips      Under the null, T_v = sum_c u_vc, where u_vc sums w_i (d_i - d) over the pairs of cluster c: d is the
               mean difference of all pairs, w_i = 1 / n_v in the part and -1 / (n - n_v) outside it. The signs of
               whole clusters are flipped, as in a wild cluster bootstrap that imposes the null (Cameron, Gelbach and
               Miller 2008). A cluster that lies in several parts, such as an image with questions of every kind, is
               flipped in all of them together.
    omnibus    The largest |T_v| / s_v with s_v^2 = sum_c u_vc^2, against its distribution over the same flips (the
               max-T test of Westfall and Young 1993). Its p tests the null.
    lists      With lists of values a pair is in several parts. Each part is compared with the pairs outside it, so T_v
               and its flips are the same formulas; a part of all pairs has no contrast.
    one part   The p of a contrast compares |T_v| / s_v with the same distribution of the maximum. The chance that any
               contrast has a p of at most .05 is then .05. With two parts there is one contrast, up to its sign.
    interval   All contrasts that the flips of this contrast alone do not reject (`sign_flips`), at the level that the
               correction for the parts leaves to it (`significance.level_of_test`).
    unread     The contrast of a part is least if unread outputs speak against the arm there, and for it elsewhere. It
               is tested at both ends, and p is that of the end next to 0, or 1 (`experiments.stats.bounds`).

Simulated (400 to 1,000 draws of each design, clusters of two): the size at a nominal .05 is at most .07 for 2 to 14
parts of equal sizes, with clusters inside or across parts, and far below .05 for parts of five clusters. A part of 20
of 200 pairs, in which both arms seldom differ, and a common effect give .08.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.results.data_columns import ScoreView, missing_note, overlap_note, split_view
from experiments.stats import SIGNIFICANCE_LEVEL, Finding, format_count, format_p, format_signed, holm, level_of_test
from experiments.stats.arm_comparisons import ArmComparison
from experiments.stats.arms import (
    MISSING_VALUE,
    UNIT,
    Arm,
    axis_values,
    deciding_digests,
    describe_arm,
    iter_arms,
    iter_compared_arms,
    resolve_setting,
    varying_axes,
)
from experiments.stats.bounds import ArmBounds, difference_ends, filled, is_wide, unread_texts
from experiments.stats.intervals import Estimate, Floats, cluster_codes, cluster_sums
from experiments.stats.pairs import KEYS, PairedTestResult, UnpairedError, align_pairs, end_next_to_zero
from experiments.stats.run_level_frames import is_run_level, run_level_columns
from experiments.stats.sign_flips import ROUNDING, TwoSidedTest, exactly_summable, sign_flip_test, subsets
from experiments.stats.summary import estimate_macro_average
from icl import ConfigError, DataFrame, pd

Test = Callable[[float], TwoSidedTest]
"""Confidence level -> the test of one contrast."""


@dataclass(frozen=True)
class PartEffect:
    """The effect in one part of the data, and its contrast with all other parts.

    Attributes:
        difference: The mean paired difference in the part, arm minus reference. With unread outputs this and the
            contrast are those of the end next to 0, or NaN if 0 lies between the ends.
        contrast: That difference minus the mean paired difference in all other parts.
        low: The lower end of the contrast's interval.
        high: The upper end of it.
        p: Two-sided, corrected for all parts. The interval leaves out 0 exactly if it is at most SIGNIFICANCE_LEVEL.
        pairs: The number of pairs in the part.
        clusters: The number of independent units among them.
        test: The test of this contrast alone, at a confidence level.
    """

    difference: float
    contrast: float
    low: float
    high: float
    p: float
    pairs: int
    clusters: int
    test: Test

    def interval(self, corrected: float, family: int) -> tuple[float, float]:
        """The interval that leaves out 0 exactly if a corrected p is at most SIGNIFICANCE_LEVEL."""
        alone = self.test(1 - SIGNIFICANCE_LEVEL)
        corrected_test = self.test(1 - level_of_test(alone.p, corrected, family))
        return corrected_test.low, corrected_test.high


@dataclass(frozen=True)
class Interaction:
    """The test that an effect is the same in all parts of the data. p belongs to the largest contrast.

    `pairs` is the number of distinct pairs: one may be in several parts.
    """

    p: float
    parts: Sequence[PartEffect]
    pairs: int


@dataclass(frozen=True)
class ArmInteraction:
    """The interaction of one arm's effect with a column of the data.

    Attributes:
        arm: The values of the axes.
        reference: The values of the axes of its reference.
        interaction: The test; its parts correspond to `values`.
        values: The values of the column.
        by_construction: Whether the arm always answers as its reference, so that there is nothing to test.
    """

    arm: Arm
    reference: Arm
    interaction: Interaction
    values: tuple[Any, ...]
    by_construction: bool


def interaction_test(differences: Floats, parts: NDArray[Any], clusters: Any) -> Interaction:
    """Tests whether a paired difference is the same in all parts.

    Args:
        differences: [n], arm minus reference, in units of the metric.
        parts: [n], the part of each pair, in 0..V-1; or [V, n], whether a pair is in a part. Every part has a pair and
            lacks one.
        clusters: [n], any hashable labels. A cluster may lie in several parts.
    """
    codes = cluster_codes(clusters)
    number = len(differences)
    inside = _members(parts)
    sizes = inside.sum(axis=1).astype(np.float64)
    weights = np.where(inside, 1 / sizes[:, None], -1 / (number - sizes[:, None]))
    shares = np.where(inside, (number - sizes[:, None]) / sizes[:, None], (sizes / (number - sizes))[:, None])
    residuals = differences - differences.mean()
    residuals[np.abs(residuals) <= ROUNDING] = 0.0
    sums = np.stack([cluster_sums(own * residuals, codes)[0] for own in weights], axis=1)  # [C, V]
    p = _max_t_p(exactly_summable(sums, len(sums)))
    means = np.where(inside, differences, 0.0).sum(axis=1) / sizes
    effects = []
    widest = 2 * max(1.0, float(np.abs(differences).max()))
    for v in range(len(sizes)):
        own_shares = cluster_sums(shares[v], codes)[0]
        test = partial(sign_flip_test, number * sums[:, v], own_shares, lowest=-widest, highest=widest)
        others = (float(differences.sum()) - float(means[v] * sizes[v])) / (number - sizes[v])
        effects.append(
            PartEffect(
                difference=float(means[v]),
                contrast=float(means[v] - others),
                low=nan,
                high=nan,
                p=float(p[v]),
                pairs=int(sizes[v]),
                clusters=len(np.unique(codes[inside[v]])),
                test=test,
            )
        )
    ends = [effect.interval(effect.p, len(effects)) for effect in effects]
    effects = [replace(effect, low=low, high=high) for effect, (low, high) in zip(effects, ends, strict=True)]
    return Interaction(float(p.min()), effects, number)


def _members(parts: NDArray[Any]) -> NDArray[np.bool_]:
    """[V, n]: whether a pair is in a part."""
    return parts if parts.ndim == 2 else parts == np.arange(parts.max() + 1)[:, None]


def bounded_interaction(ends: Floats, parts: NDArray[Any], clusters: Any) -> Interaction:
    """`interaction_test` over all readings of unread outputs. ends: [2, n], the least and largest differences."""
    effects = []
    members = _members(parts)
    for v, inside in enumerate(members):
        least, largest = (
            interaction_test(np.where(inside, own, other), members, clusters).parts[v]
            for own, other in (ends, ends[::-1])
        )
        near = end_next_to_zero(least, largest, attrgetter("contrast"))
        near = near or replace(largest, p=1.0, difference=nan, contrast=nan)
        near = replace(near, test=partial(_test_of_both, least.test, largest.test, near.p))
        low, high = near.interval(near.p, len(members))
        effects.append(replace(near, low=low, high=high))
    return Interaction(min(effect.p for effect in effects), effects, ends.shape[1])


def _test_of_both(least: Test, largest: Test, p: float, level: float) -> TwoSidedTest:
    low, high = least(level), largest(level)
    return TwoSidedTest(p if p == 1 else max(low.p, high.p), low.low, high.high)


def arm_interactions(
    frame: DataFrame, column: str, to: Mapping[str, Any], metric: str, *, axes: Sequence[str]
) -> list[ArmInteraction]:
    """Tests for every arm with a reference whether its effect differs between the values of a column.

    A run-level metric contributes the differences of its pseudo-values in each part, which average to the effect there.

    Args:
        frame: A tidy frame with run-level metrics computed within the values of the column.
        column: A column of the data. Samples without a value (MISSING_VALUE) are left out.
        to: The setting of the reference, such as {"decoding": "greedy"}.
        metric: The column of scores.
        axes: The axes, without the column.

    Returns:
        The arms that have pairs with both scores in at least two values.

    Raises:
        UnpairedError: Two arms do not have the same queries and seeds.
        ConfigError: The reference is not an arm of the frame.
    """
    to = resolve_setting(frame, to, axes, "--to")
    present, names = frame[frame[column] != MISSING_VALUE], varying_axes(frame, axes)
    results = []
    for arm, reference, theirs, mine in iter_compared_arms(present, to, axes):
        own = describe_arm(reference, names), describe_arm(arm, names)
        values, keys, differences, clusters, ends = [], [], [], [], []
        for value in dict.fromkeys(mine[column]):
            sides = theirs[theirs[column] == value], mine[mine[column] == value]
            pairs = align_pairs(*sides, metric, names=own)
            if len(pairs) and pairs.rows is not None:
                values.append(value)
                keys.append(sides[1][[*KEYS]].iloc[pairs.rows[1]])
                differences.append(pairs.differences)
                clusters.append(pairs.clusters)
                ends.append(difference_ends(sides, pairs, metric))
        if len(values) < 2:
            continue
        number = pd.concat(keys).groupby([*KEYS], sort=False).ngroup().to_numpy()  # of each pair
        first = np.unique(number, return_index=True)[1]
        inside = np.zeros((len(values), len(first)), dtype=bool)
        inside[np.repeat(np.arange(len(values)), [len(one) for one in differences]), number] = True
        tested = np.flatnonzero(~inside.all(axis=1))  # parts that have others outside
        if not len(tested):
            continue
        decided = deciding_digests(theirs), deciding_digests(mine)
        same = None not in decided and decided[0] == decided[1]
        units, both = np.concatenate(clusters)[first], np.concatenate(ends, axis=1)[:, first]
        test = (
            interaction_test(np.concatenate(differences)[first], inside[tested], units)
            if (both[0] == both[1]).all()
            else bounded_interaction(both, inside[tested], units)
        )
        results.append(ArmInteraction(arm, reference, test, tuple(values[v] for v in tested), same))
    return results


def _max_t_p(sums: Floats) -> Floats:
    """[V]: the share of flips with a largest standardized contrast that reaches the part's own. sums: [C, V]."""
    spread = np.sqrt((sums**2).sum(axis=0))
    scale = np.where(spread > 0, spread, np.inf)
    total = sums.sum(axis=0)
    observed = np.abs(total) / scale
    reached, flips = np.zeros(sums.shape[1]), 0
    for chosen in subsets(len(sums)):
        largest = (np.abs(2 * (chosen @ sums) - total) / scale).max(axis=1)
        reached += (largest[:, None] >= observed - ROUNDING).sum(axis=0)
        flips += len(largest)
    return reached / flips


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
    view: ScoreView | None
    interactions: Sequence[ArmInteraction] = ()
    refused: str = ""
    note: str = ""

    @property
    def values(self) -> list[Any]:
        """The values of the column."""
        return [] if self.view is None else axis_values(self.view.scores, self.name)


def column_effects(view: ScoreView, name: str) -> ColumnEffects:
    """The run by a column. A column that does not divide it is not raised."""
    try:
        split = split_view(view, [name])
    except ConfigError as error:
        return ColumnEffects(name, None, refused=str(error).removeprefix("--by: "))
    labels, queries = split.scores[name], split.scores["query"]
    overlap = overlap_note(labels, queries, name)
    note = " ".join(filter(None, (missing_note(labels, queries, name), overlap)))
    if view.is_sequential:
        return ColumnEffects(name, split, refused=view.sequential_note, note=note)
    if not view.to or all(view.scores[axis].nunique() < 2 for axis in view.to):
        return ColumnEffects(name, split, note=note)
    unread = float((unread_texts(split.scores, view.metric) != "").mean())
    why = (
        f"{100 * unread:.0f} % of the outputs are unread, so an effect on them can be one of wording (`icl label`)"
        if is_wide(unread)
        else f"its values overlap, and {view.metric} is computed within each of them"
        if overlap and is_run_level(view.scores, view.metric)
        else ""
    )
    if why:
        return ColumnEffects(name, split, refused=f"No effects by {name}: {why}.", note=note)
    try:
        tests = arm_interactions(split.scores, name, view.to, view.metric, axes=view.axes)
    except UnpairedError as error:
        return ColumnEffects(name, split, refused=str(error), note=note)
    return ColumnEffects(name, split, tests, note=note)


def macro_averages(effects: ColumnEffects) -> list[tuple[dict[str, Any], Estimate, ArmBounds | None]]:
    """(arm, its mean over the values of the column, its bounds) of each arm with scores at two values or more."""
    if effects.view is None:
        return []
    axes = [axis for axis in effects.view.axes if axis != effects.name]
    averages = (
        (arm, estimate_macro_average(rows, effects.view.metric, effects.name, UNIT), _macro_bounds(rows, effects))
        for arm, rows in iter_arms(effects.view.paired_scores, axes)
    )
    return [(arm, average, bounds) for arm, average, bounds in averages if average is not None]


def _macro_bounds(rows: DataFrame, effects: ColumnEffects) -> ArmBounds | None:
    """The bounds of a macro average; None if every output is read. A run-level metric can have any value."""
    assert effects.view is not None
    metric = effects.view.metric
    scored = rows[rows[metric].notna() & (rows[effects.name] != MISSING_VALUE)]
    flags = unread_texts(scored, metric) != ""
    if not flags.any():
        return None
    ends = filled(scored[metric].to_numpy(np.float64), flags)
    low, high = (estimate_macro_average(scored.assign(**{metric: own}), metric, effects.name, UNIT) for own in ends)
    if metric in run_level_columns(scored) or low is None or high is None:
        return ArmBounds(0.0, 1.0, 0.0, 1.0, float(flags.mean()))
    return ArmBounds(low.mean, high.mean, low.low, high.high, float(flags.mean()))


def interactions_frame(effects: ColumnEffects) -> DataFrame:
    """One row per arm and value of the column.

    Returns:
        The axes of the arm, the column, `reference`, `difference` (of the arm there), `contrast` (that difference minus
        the one on all other values) with `low` and `high`, `p_value` (of the contrast, corrected over the values), `p`
        (that no value differs), `p_corrected` (Holm over the arms), `pairs` and `clusters`.
    """
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
        pairs = one.interaction.pairs
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


def is_significant(row: Mapping[Any, Any]) -> bool:
    """Whether a row of `interactions_frame` is a contrast that differs, in an arm with a significant test."""
    return bool(row["p_corrected"] <= SIGNIFICANCE_LEVEL and row["p_value"] <= SIGNIFICANCE_LEVEL)
