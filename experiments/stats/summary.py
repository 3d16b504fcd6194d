"""The mean of a metric in each arm, over its queries and seeds, with its interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.stats.arms import UNIT, axes_of, iter_arms, tidy_frame
from experiments.stats.intervals import Estimate, estimate_mean
from experiments.stats.run_statistics import SAMPLE, estimate_run_statistic, run_level_columns

if TYPE_CHECKING:
    from pandas import DataFrame


def estimate_arm(rows: "DataFrame", metric: str, level: float = 0.95) -> Estimate:
    """The mean score of an arm with its interval.

    Args:
        rows: The samples of the arm, tidy. At least one has the score.
        metric: The column of scores.
        level: The confidence level.
    """
    scored = rows[rows[metric].notna()]
    values, clusters = scored[metric].to_numpy(dtype=np.float64), scored[UNIT].to_numpy()
    if scores := run_level_columns(rows).get(metric):
        return estimate_run_statistic(scores, scored[SAMPLE].to_numpy(), clusters, level)
    return estimate_mean(values, clusters, level)


def summarize_arms(
    frame: "DataFrame", metric: str, axes: Sequence[str] | None = None, level: float = 0.95
) -> "DataFrame":
    """The mean of a metric in each arm, with its interval.

    The mean is over samples, the interval is over clusters (`intervals`), so seeds of a query are not independent.

    Returns:
        One row per arm: its axes, mean, low, high, samples, clusters, queries, seeds, seed_sd (standard deviation of
        the means of single seeds, with n - 1; NaN for one seed), missing (samples without a score). Arms without any
        score have NaN.
    """
    import pandas as pd

    axes = tuple(axes if axes is not None else axes_of(frame))
    rows: list[dict[str, Any]] = []
    for arm, samples in iter_arms(tidy_frame(frame, axes), axes):
        scored = samples[samples[metric].notna()]
        row: dict[str, Any] = dict(arm)
        if len(scored):
            estimate = estimate_arm(scored, metric, level)
            seeds = scored.groupby("seed")[metric].mean()
            row |= {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "clusters": estimate.clusters}
            row |= {"seed_sd": float(seeds.std(ddof=1))}
        else:
            row |= {"mean": np.nan, "low": np.nan, "high": np.nan, "clusters": 0, "seed_sd": np.nan}
        row |= {"samples": len(scored), "queries": scored["query"].nunique(), "seeds": scored["seed"].nunique()}
        rows.append(row | {"missing": len(samples) - len(scored)})
    columns = [*axes, "mean", "low", "high", "samples", "clusters", "queries", "seeds", "seed_sd", "missing"]
    return pd.DataFrame(rows, columns=columns)
