"""The test of two arms under a run-level metric, and the interval of their difference.

p         Randomization test (Fisher 1935; for F1: Yeh 2000). The two arms are swapped within each cluster or not, and p
          is the share of swaps whose difference is as large as the observed one. It is exact under the null that
          swapping them changes nothing, at any value of the statistic. If few clusters differ, all swaps are used,
          otherwise a random sample of them and the observed arms.
interval  Percentiles over resampled clusters (Efron and Tibshirani 1993, ch. 13), with the statistic of each cell
          computed on the resample. If all resamples give one value, as for equal arms, the interval ends at the
          differences that z^2 more clusters would give that are best in one arm and worst in the other.

Both recompute the statistic from the sums of its rows (`icl.metrics.sufficient_statistics`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.stats.intervals import MAX_ENTRIES, RESAMPLES, Floats, normal_quantile, resampled_counts
from experiments.stats.run_statistics import NO_SPREAD, Stratum
from experiments.stats.sign_flips import SAMPLED_SUBSETS, subsets
from icl.metrics.sufficient_statistics import sum_rows

MANY_SUMS = 64
"""A statistic of more sums than this (ROC AUC) is resampled less often."""
FEWER_RESAMPLES = 2_000


def randomization_p(strata: Sequence[Stratum], samples: int = SAMPLED_SUBSETS) -> float:
    """Two-sided p of the difference of two arms that are swapped within clusters; 1 if no cluster differs.

    Args:
        strata: The cells of both arms, from `build_strata`.
        samples: The number of random swaps, if there are too many to use all of them.
    """
    deltas = [stratum.arm - stratum.reference for stratum in strata]
    differing = np.flatnonzero(sum(np.asarray(abs(delta).sum(axis=1)).ravel() for delta in deltas))

    def difference(swapped: Floats) -> Floats:
        return swapped_differences(strata, swapped, differing)

    observed = abs(float(difference(np.zeros((1, len(differing))))[0]))
    extreme = count = 0
    for swapped in _pieces(subsets(len(differing), _repetitions(strata, samples)), strata):
        differences = np.abs(difference(swapped))
        extreme += int(np.sum(~(differences < observed - 1e-12)))  # an undefined statistic counts as extreme
        count += len(differences)
    return extreme / count


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


def run_statistic_interval(strata: Sequence[Stratum], clusters: int, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of the difference of two arms.

    Args:
        strata: The cells of both arms, from `build_strata`.
        clusters: The number of clusters.
        level: The confidence level.

    Returns:
        (low, high).
    """
    pieces = []
    for counts in _pieces(resampled_counts(clusters, _repetitions(strata, RESAMPLES)), strata):
        piece = np.zeros(len(counts))
        for stratum in strata:
            arm, reference = np.asarray(counts @ stratum.arm), np.asarray(counts @ stratum.reference)
            piece += stratum.weight * (stratum.value(arm) - stratum.value(reference))
        pieces.append(piece)
    differences = np.concatenate(pieces)
    differences = differences[np.isfinite(differences)]
    if len(differences) and float(np.ptp(differences)) >= NO_SPREAD:
        low, high = np.quantile(differences, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)
    z2 = normal_quantile(0.5 + level / 2) ** 2
    ends = [sum(_difference_with(one, z2 * one.worst, z2 * one.best) for one in strata)]
    ends += [sum(_difference_with(one, z2 * one.best, z2 * one.worst) for one in strata)]
    return min(ends), max(ends)


def _difference_with(stratum: Stratum, arm: Floats, reference: Floats) -> float:
    """The weighted difference after these sums are added to either arm."""
    sums = sum_rows(stratum.arm) + arm, sum_rows(stratum.reference) + reference
    return stratum.weight * float(stratum.value(sums[0]) - stratum.value(sums[1]))


def _repetitions(strata: Sequence[Stratum], repetitions: int) -> int:
    wide = max(len(stratum.worst) for stratum in strata) > MANY_SUMS
    return min(repetitions, FEWER_RESAMPLES) if wide else repetitions


def _pieces(weights: Iterable[Floats], strata: Sequence[Stratum]) -> Iterator[Floats]:
    """The rows in pieces whose sums have at most MAX_ENTRIES entries."""
    step = max(1, MAX_ENTRIES // max(len(stratum.worst) for stratum in strata))
    for rows in weights:
        yield from (rows[i : i + step] for i in range(0, len(rows), step))
