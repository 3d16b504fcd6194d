"""Bounds of scores with unread outputs: every unread output counted as wrong, and as right.

    L = the score of a read output, 0 of an unread one        U = the score of a read output, 1 of an unread one

    one arm     mean L <= mean score <= mean U                                      (Manski 1989)
    two arms    lo_i = L_B - U_A, hi_i = U_B - L_A; both are 0 if the two outputs are the same text for the same gold
                and options

Each end is an ordinary comparison of two arms, with the exact paired test and its clusters. A difference is significant
only if it is so at the end next to 0: then it is so whatever the unread outputs say. This holds at every moment while
outputs are labeled, in any order, because a label can only narrow the bounds.

A run-level metric (F1, AUC) is no mean of scores, so two fillings do not bound it: its difference is open.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT, scored_rows, unread_column
from experiments.stats.intervals import Floats, estimate_mean
from experiments.stats.pairs import (
    PairedTestResult,
    Pairs,
    corrected_interval,
    end_next_to_zero,
    paired_test,
)
from experiments.stats.run_level_frames import run_level_columns
from experiments.stats.settled import settled_mean, settled_pairs
from icl import DataFrame, canonical_digest
from icl.text.json_text import fold

Interval = Callable[[float, float, int], tuple[float, float]]
"""(p, corrected p, size of the family) -> the interval that agrees with the corrected p."""

NARROW = 0.02
"""The largest share of unread outputs up to which a mean is written as one number."""
DIGITS = 12
"""Of the digest in `unread_text`."""


@dataclass(frozen=True)
class Bounds:
    """What the unread outputs of a comparison leave open.

    Attributes:
        low: The mean difference if every unread output speaks against the arm.
        high: The mean difference if every unread output speaks for it.
        arm: The mean score of the arm with every unread output wrong, and right.
        reference: The mean score of the reference, likewise.
        unread: The share of unread outputs.
        num_outputs: The number of outputs.
        queries: The number of queries with an unread output.
        favorable_p: The smallest p that the end of either sign has, not corrected.
    """

    low: float
    high: float
    arm: tuple[float, float]
    reference: tuple[float, float]
    unread: float
    num_outputs: int
    queries: int
    favorable_p: float


@dataclass(frozen=True)
class ArmBounds:
    """The bounds of the mean score of one arm.

    Attributes:
        low: The mean with every unread output wrong.
        high: The mean with every unread output right.
        ci_low: The lower end of the interval of `low`.
        ci_high: The upper end of the interval of `high`.
        unread: The share of unread outputs.
    """

    low: float
    high: float
    ci_low: float
    ci_high: float
    unread: float

    @property
    def columns(self) -> dict[str, float]:
        """The columns of a table of means that has this arm: the range, its interval and the share."""
        interval = {"low": self.ci_low, "high": self.ci_high}
        return {**interval, "unread": self.unread, "mean_low": self.low, "mean_high": self.high}


TestedArms = tuple[PairedTestResult, Bounds | None, Interval, tuple[float, float], str]
"""The test, what unread outputs leave open, the interval at a corrected level, the mean scores of the reference and of
the arm, and how many unread outputs were labeled, in words."""


def labeled_test(
    frames: tuple[DataFrame, DataFrame],
    pairs: Pairs,
    metric: str,
    reference_metric: str | None = None,
    *,
    level: float = 0.95,
    names: tuple[str, str] = ("reference", "arm"),
) -> TestedArms:
    """The paired test of two arms by labels, where they settle it, else as `bounded_test`, which says the arguments."""
    result, bounds, interval = bounded_test(frames, pairs, metric, reference_metric, level=level, names=names)
    labeled = settled_pairs(*frames, pairs, metric, reference_metric)
    if labeled and (own := labeled.estimate(level)):
        means = labeled.means(own.difference)
        return own.replace_in(result), None, labeled.corrected_interval, means, own.coverage
    return result, bounds, interval, (float(pairs.reference.mean()), float(pairs.arm.mean())), ""


def bounded_test(
    frames: tuple[DataFrame, DataFrame],
    pairs: Pairs,
    metric: str,
    reference_metric: str | None = None,
    *,
    level: float = 0.95,
    names: tuple[str, str] = ("reference", "arm"),
) -> tuple[PairedTestResult, Bounds | None, Interval]:
    """The paired test of two arms over all ways to read their unread outputs.

    Args:
        frames: The samples of the reference and of the arm.
        pairs: They as `align_pairs` pairs them by the metrics.
        metric: The column of scores.
        reference_metric: The reference's column of scores, if it is another one.
        level: The confidence level.
        names: What error messages call the two arms.

    Returns:
        (result, bounds, interval). Without an unread output the result is that of `paired_test` and there are no
        bounds. Otherwise p is that of the end next to 0, or 1 if the ends lie on both sides of it, the interval extends
        from the lower limit of the low end to the upper limit of the high end, pairs count as moved if they moved
        at both ends, and `difference` counts unread outputs by the metric's own rule, which says nothing by itself.
    """
    result = paired_test(pairs, level, names)
    assert pairs.rows is not None
    columns = reference_metric or metric, metric
    texts = [unread_texts(frame, column)[rows] for frame, column, rows in zip(frames, columns, pairs.rows, strict=True)]
    unread = [own != "" for own in texts]
    if not any(flags.any() for flags in unread):
        return result, None, partial(corrected_interval, pairs)
    means = [
        [float(own.mean()) for own in filled(scores, flags)]
        for scores, flags in zip((pairs.reference, pairs.arm), unread, strict=True)
    ]
    bounds = Bounds(
        low=-1.0,
        high=1.0,
        arm=(means[1][0], means[1][1]),
        reference=(means[0][0], means[0][1]),
        unread=float(np.mean(unread)),
        num_outputs=2 * len(pairs),
        queries=len(set(frames[0]["query"].to_numpy()[pairs.rows[0]][unread[0] | unread[1]])),
        favorable_p=0.0,
    )
    if pairs.strata:
        anything = replace(result, low=-1.0, high=1.0, p=1.0)
        return anything, replace(bounds, arm=(0, 1), reference=(0, 1)), lambda *_: (-1.0, 1.0)
    low_pairs, high_pairs = (
        replace(pairs, reference=reference, arm=arm)
        for reference, arm in filled_ends(pairs.reference, pairs.arm, texts[0], texts[1])
    )
    low, high = (paired_test(end, level, names) for end in (low_pairs, high_pairs))
    near = end_next_to_zero(low, high)
    sided = [one.p for one, fits in ((high, high.difference > 0), (low, low.difference < 0)) if fits]
    result = replace(
        result,
        low=low.low,
        high=high.high,
        p=near.p if near else 1.0,
        right_to_wrong=high.right_to_wrong,
        wrong_to_right=low.wrong_to_right,
        is_identical=low.is_identical and high.is_identical,
    )
    bounds = replace(bounds, low=low.difference, high=high.difference, favorable_p=min(sided, default=1.0))
    return result, bounds, partial(_corrected_range, low_pairs, high_pairs)


def unread_text(output: str, gold: Sequence[Any] | None, options: Sequence[Any] | None) -> str:
    """What two unread outputs share if one is right exactly if the other is: folded text, gold and options.

    "B" can be right for one order of the options and wrong for another one.
    """
    return f"{fold(output)} {canonical_digest([list(map(str, own or ())) for own in (gold, options)])[:DIGITS]}"


def is_wide(unread: float) -> bool:
    """Whether a share of unread outputs is so large that a single number for their mean would mislead."""
    return unread > NARROW


def filled(scores: Floats, unread: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """([n], [n]): the scores with unread outputs wrong, and right."""
    return np.where(unread, 0.0, scores), np.where(unread, 1.0, scores)


def filled_ends(
    reference: Floats, arm: Floats, *texts: NDArray[np.object_]
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """The scores of (reference, arm) with the unread outputs of n pairs against the arm, and for it.

    texts: [n] for the reference and the arm, `unread_text` of unread outputs and '' of others.
    """
    own, other = (text != "" for text in texts)
    same = own & other & (texts[0] == texts[1])
    (low_a, high_a), (low_b, high_b) = filled(reference, own), filled(arm, other)
    return (np.where(same, 0.0, high_a), low_b), (low_a, np.where(same, 0.0, high_b))


def pair_ends(reference: Floats, arm: Floats, *texts: NDArray[np.object_]) -> Floats:
    """[2, n]: the least and the largest difference of each pair. Arguments are those of `filled_ends`."""
    return np.stack([b - a for a, b in filled_ends(reference, arm, *texts)])


def difference_ends(frames: tuple[DataFrame, DataFrame], pairs: Pairs, metric: str) -> NDArray[np.float64]:
    """[2, n]: the least and the largest difference of each pair (`pair_ends`). For a run-level metric it can be any."""
    assert pairs.rows is not None
    texts = [unread_texts(frame, metric)[rows] for frame, rows in zip(frames, pairs.rows, strict=True)]
    if pairs.strata and any((own != "").any() for own in texts):
        return np.stack([np.full(len(pairs), -1.0), np.ones(len(pairs))])
    return pair_ends(pairs.reference, pairs.arm, *texts)


def bound_arm(rows: DataFrame, metric: str, level: float = 0.95) -> ArmBounds | None:
    """The bounds of the mean score of an arm; None if every output is read, or if labels settle the others.

    A run-level metric can have any value.

    Args:
        rows: The samples of the arm, tidy.
        metric: The column of scores.
        level: The confidence level.
    """
    scored = scored_rows(rows, metric)
    flags = unread_texts(scored, metric) != ""
    if not flags.any() or settled_mean(scored, metric, level):
        return None
    share = float(flags.mean())
    if metric in run_level_columns(rows):
        return ArmBounds(0.0, 1.0, 0.0, 1.0, share)
    values, clusters = scored[metric].to_numpy(dtype=np.float64), scored[UNIT].to_numpy()
    low, high = (estimate_mean(own, clusters, level) for own in filled(values, flags))
    return ArmBounds(low.mean, high.mean, low.low, high.high, share)


def unread_texts(frame: DataFrame, metric: str) -> NDArray[np.object_]:
    """[n]: `unread_text` of each output that a metric cannot read with certainty, '' for one that is read."""
    column = unread_column(metric)
    if column not in frame:
        return np.full(len(frame), "", dtype=object)
    texts: NDArray[Any] = frame[column].fillna("").to_numpy(dtype=object)
    return texts


def _corrected_range(low: Pairs, high: Pairs, p: float, corrected: float, family: int) -> tuple[float, float]:
    """As `corrected_interval`, from the low end to the high end."""
    ends = [corrected_interval(pairs, p, corrected, family) for pairs in (low, high)]
    return ends[0][0], ends[1][1]
