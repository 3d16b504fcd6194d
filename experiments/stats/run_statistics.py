"""The interval of one arm under a run-level metric (F1, ROC AUC, CIDEr); `exchanges` compares two arms.

An arm is one or more cells, usually one setting under all seeds. Its statistic T is the mean over its cells, weighted
by their numbers of samples. Samples of one cluster are not independent, such as questions about one image.

    1  numbers   Each sample has a number, and their mean is T (`run_level_frames`).
    2  variance  V is the variance of this mean, with the samples of a cluster taken together.
    3  interval  T +- t sqrt(V), within the range of the metric. The degrees of freedom of t are the effective number of
                 clusters with samples that can change T (for a recall: positives), minus 1.

Two kinds of statistics need another step 3:

    proportions  (F1, AUC, groups) Wilson's interval (`intervals`; Dean and Pagano 2015) at the effective sample size
                 T (1 - T) / V. This size is multiplied by (z / t)^2, with z the
                 normal quantile, if a cluster has several samples that can change T.
    no spread    V is 0, there is one cluster, or a proportion is exactly 0 or 1. To get each end, add z^2 clusters of
                 the worst (or best) samples and compute T again; z is 1.96 at 95 %. For a proportion of 0 or 1 this is
                 Wilson.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import (
    Codes,
    Estimate,
    cluster_codes,
    cluster_sums,
    interval_of_mean,
    mean_variance,
    normal_quantile,
    wilson,
)
from experiments.stats.run_level_frames import Indices, RunLevelScores
from icl import RunStatistic
from icl.metrics.run_level import sum_rows

NO_SPREAD = 1e-9
"""A standard error, a distance from 0 or 1, or the width of an interval below this counts as zero."""
OVERWHELMING = 1e9
"""With this many added clusters the data no longer matter: the statistic is that of the added ones."""


def estimate_run_statistic(
    scores: RunLevelScores, sample_indices: Indices, clusters: ArrayLike, level: float = 0.95
) -> Estimate:
    """The run-level statistic of an arm with its interval.

    Args:
        scores: The metric and its samples.
        sample_indices: [n], the samples of the arm that have a part in the statistic.
        clusters: [n], any hashable labels.
        level: The confidence level.

    Returns:
        The mean over the cells in which the statistic is defined for these samples; NaN if there is none.
    """
    codes, cells = cluster_codes(clusters), list(cells_of_rows(scores, sample_indices))
    values, informative = np.empty(len(sample_indices)), np.zeros(len(sample_indices), dtype=bool)
    for places, statistic in cells:
        values[places], informative[places] = statistic.numbers(), statistic.informative
    if not (is_defined := np.isfinite(values)).any():
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    if not is_defined.all():  # an incomplete group, or a cell with one class
        return estimate_run_statistic(scores, sample_indices[is_defined], codes[is_defined], level)
    mean = float(values.mean())
    sums, sizes = cluster_sums(values, codes)
    variance = mean_variance(sums, sizes, float(values.var())) if len(sizes) > 1 else 0.0
    is_proportion = all(statistic.is_proportion for _, statistic in cells)
    if variance**0.5 < NO_SPREAD or (is_proportion and min(mean, 1 - mean) < NO_SPREAD):
        low, high = _extremes_of_arm(cells, codes, normal_quantile(0.5 + level / 2) ** 2)
        return Estimate(mean, min(low, mean), max(high, mean), len(values), len(sizes))
    # For F1, as F goes to 0 or 1, this approaches Wilson on the Jaccard index F / (2 - F), a proportion, mapped
    # back to F (Lam, Gopal and Qian 2023).
    counts = np.bincount(codes[informative]).astype(np.float64)
    if is_proportion and counts.max(initial=0) <= 1:
        size = mean * (1 - mean) / variance
        low, high = wilson(mean * size, size, level)
    else:
        low, high = interval_of_mean(mean, variance, counts[counts > 0], level, is_share=is_proportion)
    lowest, highest = _extremes_of_arm(cells, codes, OVERWHELMING)
    if lowest <= mean <= highest:  # not so for a ratio above 1 with the default worst and best of 0 and 1
        low, high = max(low, lowest), min(high, highest)
    return Estimate(mean, low, high, len(values), len(sizes))


def cells_of_rows(scores: RunLevelScores, sample_indices: Indices) -> Iterator[tuple[Indices, RunStatistic]]:
    """For each cell of an arm: the places of its samples in `sample_indices`, and its statistic on them."""
    for cell in np.unique(scores.cells[sample_indices]):
        places = np.flatnonzero(scores.cells[sample_indices] == cell)
        yield places, scores.statistic_of(sample_indices[places])


def _extremes_of_arm(cells: Sequence[tuple[Indices, RunStatistic]], codes: Codes, added: float) -> tuple[float, float]:
    """The statistic with `added` more clusters of the worst samples, and of the best."""
    ends = [0.0, 0.0]
    sizes = informative_per_cluster([(codes[places], statistic.informative) for places, statistic in cells])
    for (places, statistic), size in zip(cells, sizes, strict=True):
        for i, extreme in enumerate((statistic.worst, statistic.best)):
            sums = sum_rows(statistic.rows) + added * size * extreme
            ends[i] += float(statistic.value(sums)) * len(places) / len(codes)
    return min(ends), max(ends)


def informative_per_cluster(cells: Sequence[tuple[Codes, NDArray[np.bool_]]]) -> list[float]:
    """For each cell, its number of samples that can change the statistic, per cluster.

    Args:
        cells: For each cell the cluster of its samples, and whether each can change the statistic. Clusters without
            such a sample in any cell do not count. A cluster may lie in one cell (parts of the data) or in all (seeds).
    """
    clusters = len(np.unique(np.concatenate([codes[informative] for codes, informative in cells])))
    return [float(informative.sum()) / clusters if clusters else 1.0 for _, informative in cells]
