"""The mean of a metric in each arm, over its queries and seeds, with its interval.

Parts of the data (`estimate_macro_average`): the samples with one value of a column, such as the adversarial questions
of POPE.

macro average   (1/V) sum_v m_v, with m_v the score of part v: every value counts the same, whatever its size
linearization   macro + n / (V n_v) (x_i - m_v) for each sample: these numbers average to the macro average, and
                their sums over clusters give its variance, also if a cluster lies in several parts
run level       F1 and the like are computed in each part, as a benchmark reports them
no value        samples without a value (MISSING_VALUE) are in no macro average and in no test of parts

A curve of accuracy over shots (`summarize_curve`; VL-ICL Bench, Zong et al., ICLR 2025):

gain        acc_k - acc_0; `compare(frame, to={"shots": 0})` tests it in pairs
efficiency  the area between the curve and acc_0 over the number of shots, divided by its width: the mean gain. It is
            negative if shots hurt. The paper's normalizer is not published, so its values cannot be reproduced.
headroom    efficiency over 1 - acc_0; None if acc_0 is 1
peak        the best accuracy, 0 shots included; the fewest shots on a tie

If lower is better, gain and efficiency keep the sign of the difference, headroom is relative to acc_0, the peak is the
lowest score, and a monotone curve falls. Without a good direction headroom, peak and monotone are None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.stats.arms import MISSING_VALUE, UNIT, axes_of, iter_arms, scored_rows, tidy_frame
from experiments.stats.bounds import bound_arm
from experiments.stats.intervals import (
    Codes,
    Estimate,
    Floats,
    cluster_codes,
    cluster_sums,
    estimate_mean,
    interval_of_mean,
    interval_without_spread,
    mean_variance,
)
from experiments.stats.run_level_frames import SAMPLE, run_level_columns
from experiments.stats.run_statistics import NO_SPREAD, cells_of_rows, estimate_run_statistic
from experiments.stats.settled import settled_mean
from icl import Better, DataFrame, pd


def estimate_arm(rows: DataFrame, metric: str, level: float = 0.95) -> Estimate:
    """The mean score of an arm with its interval.

    Args:
        rows: The samples of the arm, tidy. At least one has the score. Labels of a sample of queries settle outputs
            that could not be read (`settled`).
        metric: The column of scores.
        level: The confidence level.
    """
    scored = scored_rows(rows, metric)
    values, clusters = scored[metric].to_numpy(dtype=np.float64), scored[UNIT].to_numpy()
    if scores := run_level_columns(rows).get(metric):
        return estimate_run_statistic(scores, scored[SAMPLE].to_numpy(), clusters, level)
    if by_labels := settled_mean(scored, metric, level):
        mean, low, high = np.clip([by_labels.difference, by_labels.low, by_labels.high], 0, 1).tolist()
        return Estimate(mean, low, high, len(values), len(set(clusters)))
    return estimate_mean(values, clusters, level)


def summarize_arms(frame: DataFrame, metric: str, axes: Sequence[str] | None = None, level: float = 0.95) -> DataFrame:
    """The mean of a metric in each arm, with its interval.

    The mean is over samples, the interval is over clusters (`intervals`), so seeds of a query are not independent.

    Returns:
        One row per arm: its axes, mean, low, high, samples, clusters, queries, seeds, seed_sd (standard deviation of
        the means of single seeds, with n - 1; NaN for one seed), missing (samples without a score). Arms without any
        score have NaN. If an output of any arm is unread, mean_low and mean_high are the means with unread outputs
        wrong and right, unread is their share, and the interval covers both.
    """
    axes = tuple(axes if axes is not None else axes_of(frame))
    rows: list[dict[str, Any]] = []
    for arm, samples in iter_arms(tidy_frame(frame, axes), axes):
        scored = scored_rows(samples, metric)
        row: dict[str, Any] = dict(arm)
        if len(scored):
            estimate = estimate_arm(scored, metric, level)
            seeds = scored.groupby("seed")[metric].mean()
            row |= {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "clusters": estimate.clusters}
            row |= {"seed_sd": float(seeds.std(ddof=1))}
            if bounds := bound_arm(scored, metric, level):
                row |= bounds.columns
        else:
            row |= {"mean": np.nan, "low": np.nan, "high": np.nan, "clusters": 0, "seed_sd": np.nan}
        row |= {"samples": len(scored), "queries": scored["query"].nunique(), "seeds": scored["seed"].nunique()}
        rows.append(row | {"missing": len(samples) - len(scored)})
    columns = [*axes, "mean", "low", "high", "samples", "clusters", "queries", "seeds", "seed_sd", "missing"]
    if any("unread" in row for row in rows):
        columns += ["mean_low", "mean_high", "unread"]
    return pd.DataFrame(rows, columns=columns)


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
    else:
        low, high = interval_of_mean(mean, variance, sizes, level, is_share=is_share)
    return Estimate(mean, low, high, len(values), len(sizes))


def part_weights(parts: Codes) -> Floats:
    """[n], n / (V n_v): weights of samples that make the weighted mean equal the mean over parts."""
    sizes = np.bincount(parts)
    return np.asarray(len(parts) / (len(sizes) * sizes[parts]), dtype=np.float64)


def estimate_macro_average(
    rows: DataFrame, metric: str, column: str, unit: str, level: float = 0.95
) -> Estimate | None:
    """The macro average of an arm over the values of a column; None if fewer than two values have a score.

    Args:
        rows: The samples of the arm, with run-level metrics computed within the values.
        metric: The column of scores.
        column: The column of the data.
        unit: The column of clusters.
        level: The confidence level.
    """
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
            values[places] = statistic.numbers()
    return macro_average(values, parts, scored[unit].to_numpy(), is_share, level)


@dataclass(frozen=True)
class CurveSummary:
    """The summary of one curve, in accuracy (0 to 1); `peak_shots` in demonstrations."""

    gain: float
    efficiency: float
    headroom: float | None
    peak: float | None
    peak_shots: int | None
    monotone: bool | None


def summarize_curve(shots: Sequence[int], accuracy: Sequence[float], better: Better = "higher") -> CurveSummary:
    """Summarizes one curve; its gain is the gain of the last point.

    Args:
        shots: [n >= 2] rising numbers of shots that start with 0.
        accuracy: [n] scores.
        better: The good direction of the score.

    Raises:
        ValueError: For other numbers of shots.
    """
    x, y = np.asarray(shots, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(x) < 2 or len(x) != len(y) or x[0] != 0 or np.any(np.diff(x) <= 0):
        raise ValueError("a curve needs rising numbers of shots that begin with 0, and an accuracy for each.")
    above = y - y[0]
    efficiency = float(np.sum((above[1:] + above[:-1]) / 2 * np.diff(x)) / x[-1])
    gain = float(y[-1] - y[0])
    if better == "neither":
        return CurveSummary(gain, efficiency, headroom=None, peak=None, peak_shots=None, monotone=None)
    sign, left = (1, float(1 - y[0])) if better == "higher" else (-1, float(y[0]))
    best = int(np.argmax(sign * y))
    return CurveSummary(
        gain=gain,
        efficiency=efficiency,
        headroom=sign * efficiency / left if left > 0 else None,
        peak=float(y[best]),
        peak_shots=int(x[best]),
        monotone=bool(np.all(sign * np.diff(y) >= 0)),
    )
