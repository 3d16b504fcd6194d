"""The test of two arms under a run-level metric, and the interval of their difference.

p         Randomization test (Fisher 1935; for F1: Yeh 2000). The two arms are swapped within each cluster or not, and p
          is the share of swaps whose difference is as large as the observed one. It is exact under the null that
          swapping them changes nothing, at any value of the statistic. If few clusters differ, all swaps are used,
          otherwise a random sample of them and the observed arms.
interval  The same swaps, for every other difference m: a swap that leaves the net share b of the pairs where they are
          is as extreme as the observed difference D if |D(swap) - m b| >= |D - m|. For the mean of scores these are the
          sign flips of the differences minus m (`sign_flips`); for other statistics this holds to first order. At m = 0
          it is the test itself, so the interval leaves out 0 exactly if p is at most 1 - level. If no swap changes
          anything, as for equal arms, the interval ends at the differences that z^2 more clusters would give that are
          best in one arm and worst in the other.

Both recompute the statistic from the sums of its rows (`icl.metrics.sufficient_statistics`).
"""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np

from experiments.stats.intervals import Floats, normal_quantile
from experiments.stats.run_statistics import NO_SPREAD, Stratum
from experiments.stats.sign_flips import (
    MAX_ENTRIES,
    SAMPLED_SUBSETS,
    TwoSidedTest,
    enclosed_means,
    interval_of_equal_clusters,
    invert_flips,
    subsets,
)
from icl.metrics.sufficient_statistics import sum_rows
from icl.streams import StreamKey

MANY_SUMS = 64
"""A statistic of more sums than this (ROC AUC) is swapped less often."""
FEWER_SWAPS = 2_000
ROUNDING = 1e-12


def randomization_test(
    strata: Sequence[Stratum], sizes: Floats, level: float = 0.95, samples: int = SAMPLED_SUBSETS
) -> TwoSidedTest:
    """The test and the interval of the difference of two arms that are swapped within clusters.

    Args:
        strata: The cells of both arms, from `build_strata`.
        sizes: [C], the number of pairs in each cluster.
        level: The confidence level.
        samples: The number of random swaps, if there are too many to use all of them.
    """
    deltas = [stratum.arm - stratum.reference for stratum in strata]
    differs = np.asarray(sum(np.asarray(abs(delta).sum(axis=1)).ravel() for delta in deltas)) > 0
    differing = np.flatnonzero(differs)
    if max(len(stratum.worst) for stratum in strata) > MANY_SUMS:
        samples = min(samples, FEWER_SWAPS)
    observed = float(swapped_differences(strata, np.zeros((1, len(differing))), differing)[0])
    ends = _ends(strata, 1 / NO_SPREAD)
    lowest, highest = min(ends[0], -abs(observed)), max(ends[1], abs(observed))
    generator, pieces = StreamKey(0, "").numpy("clusters without a difference"), []
    for swapped in _pieces(subsets(len(differing), samples), strata):
        other = swapped_differences(strata, swapped, differing)
        # swaps of clusters without a difference change b alone: with few other swaps, each stands for several of them
        repeats = 1 if differs.all() else ceil(samples / 2 ** min(len(differing), 30))
        moved = np.tile(swapped @ sizes[differs], repeats)
        moved += _random_sums(sizes[~differs], len(moved), generator)
        halves = np.stack([observed - other, observed + other])
        halves[np.abs(halves) <= ROUNDING] = 0.0
        parts = 2 * np.stack([moved, sizes.sum() - moved]) / sizes.sum()
        pieces.append(enclosed_means(np.tile(halves, repeats), parts, lowest, highest))
    result = invert_flips(np.concatenate(pieces, axis=1), level, lowest, highest)
    if result.high - result.low >= NO_SPREAD:
        return result
    ends = _ends(strata, normal_quantile(0.5 + level / 2) ** 2)
    if abs(observed) <= ROUNDING:
        return TwoSidedTest(result.p, *ends)
    low, high = interval_of_equal_clusters(observed, len(differing), result.p, level, (lowest, highest))
    return TwoSidedTest(
        result.p, min(low, ends[0]) if observed < 0 else low, max(high, ends[1]) if observed > 0 else high
    )


def swapped_differences(strata: Sequence[Stratum], swapped: Floats, clusters: Any = slice(None)) -> Floats:
    """The difference of two arms, arm minus reference, that are swapped in some clusters.

    Args:
        strata: The cells of both arms, from `build_strata`.
        swapped: [rows, C] of 0 and 1.
        clusters: The clusters that the columns stand for, by default all.

    Returns:
        [rows].
    """
    differences = np.zeros(len(swapped))
    for stratum in strata:
        moved = np.asarray(swapped @ (stratum.arm - stratum.reference)[clusters])
        reference, arm = sum_rows(stratum.reference), sum_rows(stratum.arm)
        differences += stratum.weight * (stratum.value(arm - moved) - stratum.value(reference + moved))
    return differences


def _ends(strata: Sequence[Stratum], clusters: float) -> tuple[float, float]:
    """The differences with so many more clusters that are worst in one arm and best in the other."""
    ends = [sum(_difference_with(one, clusters * one.worst, clusters * one.best) for one in strata)]
    ends += [sum(_difference_with(one, clusters * one.best, clusters * one.worst) for one in strata)]
    return min(ends), max(ends)


def _difference_with(stratum: Stratum, arm: Floats, reference: Floats) -> float:
    """The weighted difference after these sums are added to either arm."""
    sums = sum_rows(stratum.arm) + arm, sum_rows(stratum.reference) + reference
    return stratum.weight * float(stratum.value(sums[0]) - stratum.value(sums[1]))


def _random_sums(values: Floats, rows: int, generator: np.random.Generator) -> Floats:
    """[rows] sums of random subsets of the values."""
    step = max(1, MAX_ENTRIES // max(1, len(values)))
    parts = [(generator.random((min(step, rows - i), len(values))) < 0.5) @ values for i in range(0, rows, step)]
    return np.concatenate(parts)


def _pieces(weights: Iterable[Floats], strata: Sequence[Stratum]) -> Iterator[Floats]:
    """The rows in pieces whose sums have at most MAX_ENTRIES entries."""
    step = max(1, MAX_ENTRIES // max(len(stratum.worst) for stratum in strata))
    for rows in weights:
        yield from (rows[i : i + step] for i in range(0, len(rows), step))
