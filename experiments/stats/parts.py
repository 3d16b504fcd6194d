"""Parts of the data: the samples with one value of a column, such as the adversarial questions of POPE.

macro average   (1/V) sum_v m_v, with m_v the score of part v: every value counts the same, whatever its size
linearization   macro + n / (V n_v) (x_i - m_v) for each sample: these numbers average to the macro average, and
                their sums over clusters give its variance, also if a cluster lies in several parts
run level       F1 and the like are computed in each part, as a benchmark reports them
no value        samples without a value (MISSING_VALUE) are in no macro average and in no test of parts
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.stats.arms import MISSING_VALUE
from experiments.stats.intervals import (
    Codes,
    Estimate,
    Floats,
    cluster_codes,
    cluster_sums,
    few_clusters_factor,
    interval_without_spread,
    mean_variance,
    t_quantile,
    wilson,
)
from experiments.stats.run_statistics import NO_SPREAD, SAMPLE, cells_of_rows, run_level_columns

if TYPE_CHECKING:
    from pandas import DataFrame


def macro_average(values: Floats, parts: Codes, clusters: Any, is_share: bool, level: float = 0.95) -> Estimate:
    """The mean of the scores of the parts, with its interval.

    Args:
        values: [n], scores, or pseudo-values of a run-level metric that was computed in each part.
        parts: [n], the part of each, in 0..V-1; none is empty.
        clusters: [n], any hashable labels.
        is_share: Whether the score of a part is a share of 1. The interval is then Wilson's, otherwise Student's t.
        level: The confidence level.
    """
    means = np.bincount(parts, weights=values) / np.bincount(parts)
    mean = float(means.mean())
    linear = mean + part_weights(parts) * (values - means[parts])
    sums, sizes = cluster_sums(linear, cluster_codes(clusters))
    variance = mean_variance(sums, sizes, float(linear.var()))
    if variance**0.5 < NO_SPREAD or (is_share and min(mean, 1 - mean) < NO_SPREAD):
        low, high = interval_without_spread(mean, len(sizes), level)
    elif is_share:
        size = mean * (1 - mean) / variance * few_clusters_factor(sizes, level)
        low, high = wilson(mean * size, size, level)
    else:
        half = t_quantile(sizes, level) * variance**0.5
        low, high = mean - half, mean + half
    return Estimate(mean, low, high, len(values), len(sizes))


def part_weights(parts: Codes) -> Floats:
    """[n], n / (V n_v): the weights of samples whose weighted mean is the mean over parts."""
    sizes = np.bincount(parts)
    return np.asarray(len(parts) / (len(sizes) * sizes[parts]), dtype=np.float64)


def estimate_macro_average(
    rows: "DataFrame", metric: str, column: str, unit: str, level: float = 0.95
) -> Estimate | None:
    """The macro average of an arm over the values of a column; None if fewer than two values have a score.

    Args:
        rows: The samples of the arm, with run-level metrics computed within the values.
        metric: The column of scores.
        column: The column of the data.
        unit: The column of clusters.
        level: The confidence level.
    """
    import pandas as pd

    scored = rows[rows[metric].notna() & (rows[column] != MISSING_VALUE)]
    parts, names = pd.factorize(scored[column])
    if len(names) < 2:
        return None
    values = scored[metric].to_numpy(dtype=np.float64, copy=True)
    is_share = bool(values.min() >= 0 and values.max() <= 1)
    if scores := run_level_columns(scored).get(metric):
        cells = list(cells_of_rows(scores, scored[SAMPLE].to_numpy()))
        is_share = all(statistic.is_proportion for _, statistic in cells)
        for places, statistic in cells:
            values[places] = statistic.pseudo_values()
    return macro_average(values, parts, scored[unit].to_numpy(), is_share, level)
