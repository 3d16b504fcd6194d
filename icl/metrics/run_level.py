"""Statistics of a whole run as one number a sample, so that tables, intervals and paired tests treat them as scores.

A statistic T of n samples is written as T plus each sample's influence on it (the infinitesimal jackknife; Efron and
Tibshirani 1993, ch. 21):

    ratio of sums    T = sum a / sum b,            c_i = T + n (a_i - T b_i) / sum b
    area under ROC   T = mean of the placements,   c_i = T + n/m (V_i - T) for one of the m positives, likewise for the
                     negatives (DeLong et al., 1988)
    mean of ratios   T = mean over k labels of T_l, c_i = T + n/k sum_l (a_il - T_l b_il) / sum b_l
    groups           as ratios, over groups; every sample of a group has its number, times n / (groups x size)

The numbers average to T exactly, and the variance of their clusters is that of T to first order. They are no scores of
single samples and may leave [0, 1]. What these functions give also knows what T is made of (`sufficient_statistics`), so that
arms are tested on T itself and a T without any spread has a bound; plain numbers are taken for a mean.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from icl.metrics.base import ScoredSample
from icl.metrics.sufficient_statistics import (
    RunLevelValues,
    macro_f1_statistics,
    mean_statistics,
    ratio_statistics,
    roc_auc_statistics,
    statistics_of,
)

Floats = NDArray[np.float64]
Numbers = Sequence[float]
SampleValues = list[float | None]


def ratio(over: Numbers, under: Numbers, least: Numbers | None = None, most: Numbers | None = None) -> SampleValues:
    """Numbers that average to sum(over) / sum(under); all None where there is nothing to divide by.

    least, most: (over, under) of a sample that moves the ratio down or up as far as one can, where that is not 0 or all
    of a usual `under`.
    """
    a, b = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    total = b.sum()
    if not total:
        return [None] * len(a)
    whole = a.sum() / total
    return RunLevelValues((whole + len(a) * (a - whole * b) / total).tolist(), ratio_statistics(a, b, least, most))


def mean(values: Sequence[float | None], least: float = 0.0, most: float = 1.0) -> SampleValues:
    """Numbers that are scores of single samples after all, and average to their mean. least, most: their bounds."""
    told = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return RunLevelValues(values, mean_statistics(told, least, most))


def roc_auc(scores: Numbers, positive: Sequence[bool]) -> SampleValues:
    """Numbers that average to the area under the ROC curve, ties half; all None where a class is missing."""
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    mine, others = values[is_positive], values[~is_positive]
    if not len(mine) or not len(others):
        return [None] * len(values)
    placed = np.empty(len(values))
    placed[is_positive] = _share_below(mine, others)
    placed[~is_positive] = 1 - _share_below(others, mine)
    whole = placed[is_positive].mean()
    size = np.where(is_positive, len(mine), len(others))
    return RunLevelValues(
        (whole + len(values) / size * (placed - whole)).tolist(), roc_auc_statistics(values, is_positive)
    )


def macro_f1(said: NDArray[np.intp], wanted: NDArray[np.intp], labels: int) -> SampleValues:
    """Numbers that average to the mean F1 of the labels that are said or wanted; all None where there are none.

    said, wanted: [n], the number of a label below `labels`, or -1 for none.
    """
    sums = macro_f1_statistics(said, wanted, labels)
    right, under = np.split(np.asarray(sums.rows.sum(axis=0), dtype=np.float64).ravel(), 2)
    there = under > 0
    if not there.any():
        return [None] * len(said)
    shares = np.divide(right, under, out=np.zeros(labels), where=there)
    inverse = np.divide(1.0, under, out=np.zeros(labels), where=there)
    moved = sums.rows @ np.concatenate([inverse, -shares * inverse]) / there.sum()
    return RunLevelValues((shares[there].mean() + len(said) * moved).tolist(), sums)


def mean_over_groups(
    samples: Sequence[ScoredSample], score: Callable[[Sequence[ScoredSample]], float | None]
) -> SampleValues:
    """Numbers that average to the mean over groups of a group's score. A sample without a group is one by itself.

    A group without a score (None), or with a sample that failed, has no part in the mean.
    """

    def alone(members: Sequence[ScoredSample]) -> tuple[float, float] | None:
        found = score(members)
        return None if found is None else (found, 1.0)

    return ratio_over_groups(samples, alone)


def ratio_over_groups(
    samples: Sequence[ScoredSample], counts: Callable[[Sequence[ScoredSample]], tuple[float, float] | None]
) -> SampleValues:
    """Numbers that average to sum(over) / sum(under) over groups, each of which gives (over, under) or has no part."""
    groups = group_indices(samples)
    kept: list[list[int]] = []
    pairs: list[tuple[float, float]] = []
    for places in groups.values():
        members = [samples[i] for i in places]
        found = counts(members) if all(member.score is not None for member in members) else None
        if found is not None:
            kept.append(places)
            pairs.append(found)
    parts: SampleValues = [None] * len(samples)
    counted = sum(map(len, kept))
    shares = ratio([over for over, _ in pairs], [under for _, under in pairs])
    for places, share in zip(kept, shares, strict=True):
        part = None if share is None else share * counted / (len(kept) * len(places))
        for i in places:
            parts[i] = part
    if not isinstance(shares, RunLevelValues):
        return parts
    return RunLevelValues(parts, shares.sums.spread([places[0] for places in kept], len(samples)))


def group_indices(samples: Sequence[ScoredSample]) -> dict[str, list[int]]:
    """name -> places of its samples, in the order of the run."""
    found: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        found.setdefault(f"query {sample.query}" if sample.group is None else f"group {sample.group}", []).append(place)
    return found


def on_scored_samples(
    samples: Sequence[ScoredSample], parts: Callable[[Sequence[ScoredSample]], SampleValues]
) -> SampleValues:
    """`parts` of the samples that have a score, None for the others."""
    places = [i for i, sample in enumerate(samples) if sample.score is not None]
    found = parts([samples[i] for i in places])
    every: SampleValues = [None] * len(samples)
    for place, value in zip(places, found, strict=True):
        every[place] = value
    return RunLevelValues(every, statistics_of(found).spread(places, len(samples)))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Of each value: the share of the others that are below it, ties half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return np.asarray((below + up_to) / (2 * len(ordered)), dtype=np.float64)
