"""Intervals of one proportion or one mean, over samples that come in clusters.

A cluster is what was sampled together: the questions about one image, or one question under several seeds. The
intervals treat clusters as the independent units, never the samples. Three seeds of 200 queries are 200 units.

The intervals cover other queries of the same kind and, with them, other draws of demonstrations, since a draw belongs
to the query and the seed. They do not cover another pool, model, prompt or task.

    Wilson (1927)   center (p + z^2/2n) / (1 + z^2/n),   half width  z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    clusters        n is replaced by n / deff,  deff = (variance of the clustered mean) / (variance of n independent
                    samples), at least 1 (Kish 1965; with Wilson: Dean and Pagano 2015). With one sample per cluster
                    this is the plain Wilson interval.
    graded means    percentiles of the mean over resampled clusters (Efron and Tibshirani 1993, ch. 13). With fewer
                    than FEW_UNITS clusters these cover too little, and the interval is that of `sign_flips`.
    no spread       If all values are equal, no spread can be estimated, and the interval of a graded mean has no width.
                    `estimate_mean` widens it to the means that z^2 more clusters of the lowest, or the highest,
                    possible value would give. For values of 0 or 1 that is the Wilson interval.

Values are scores of single samples, in [0, 1]. If all of them are 0 or 1 they count as right or wrong, whatever else
the metric could have given: no other scores in [0, 1] with that mean vary more. The column of a run-level metric does
not hold such scores (`run_statistics`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.exact_sums import exactly_summable
from experiments.stats.formatting import FEW_UNITS
from experiments.stats.sign_flips import sign_flip_interval
from icl.streams import StreamKey

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

RESAMPLES = 10_000
MAX_ENTRIES = 2_000_000
"""The largest number of entries of an array that is computed in pieces, so that memory does not grow with a run."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: The mean of the samples.
        low: The lower end of the interval.
        high: The upper end of the interval.
        samples: The number of samples that were averaged.
        clusters: The number of independent units among them.
    """

    mean: float
    low: float
    high: float
    samples: int
    clusters: int


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion.

    Args:
        successes: The number of successes.
        n: The number of trials; an effective number need not be whole.
        level: The confidence level.

    Returns:
        (low, high).

    Raises:
        ValueError: If n <= 0 or `successes` lies outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion.")
    z2, p = normal_quantile(0.5 + level / 2) ** 2, successes / n
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))) / (1 + z2 / n)
    return max(0.0, center - half), min(1.0, center + half)


def estimate_proportion(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """The share of ones, with a Wilson interval at the effective sample size of the clusters.

    Args:
        values: [n], each 0 or 1. If all are equal, the number of clusters is the effective sample size.
        clusters: [n], any hashable labels. By default each value is a cluster.
        level: The confidence level.
    """
    x, codes = _validate(values, clusters)
    mean, n, c = float(x.mean()), len(x), int(codes.max()) + 1
    size = float(c) if mean in (0.0, 1.0) else n / design_effect(x, codes)
    low, high = wilson(mean * size, size, level)
    return Estimate(mean, low, high, n, c)


def bootstrap_mean(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """The mean with the percentile interval of a cluster bootstrap. The random stream is fixed."""
    x, codes = _validate(values, clusters)
    means = resampled_means(x, codes, RESAMPLES)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(x.mean()), float(low), float(high), len(x), int(codes.max()) + 1)


def estimate_graded_mean(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """The mean with a bootstrap interval, or with that of `sign_flips` if there are fewer than FEW_UNITS clusters.

    The interval has no width if all values are equal.

    Args:
        values: [n].
        clusters: [n], any hashable labels. By default each value is a cluster.
        level: The confidence level.
    """
    x, codes = _validate(values, clusters)
    count = int(codes.max()) + 1
    if count >= FEW_UNITS:
        return bootstrap_mean(x, codes, level)
    if np.ptp(x) == 0:
        return Estimate(float(x[0]), float(x[0]), float(x[0]), len(x), count)
    lowest, highest = min(0.0, float(x.min())), max(1.0, float(x.max()))
    low, high = sign_flip_interval(*cluster_sums(x, codes), level, lowest=lowest, highest=highest)
    return Estimate(float(x.mean()), low, high, len(x), count)


def estimate_mean(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """The mean with a Wilson interval if all values are 0 or 1, else as in `estimate_graded_mean`.

    If all values are equal and in [0, 1], the interval is that of `interval_without_spread`.
    """
    if is_binary(values):
        return estimate_proportion(values, clusters, level)
    graded = estimate_graded_mean(values, clusters, level)
    if graded.low < graded.high or not 0 <= graded.mean <= 1:
        return graded
    low, high = interval_without_spread(graded.mean, graded.clusters, level, lowest=0.0)
    return replace(graded, low=low, high=high)


def interval_without_spread(
    mean: float, clusters: int, level: float = 0.95, lowest: float = -1.0
) -> tuple[float, float]:
    """The interval of a mean that is equal in all clusters: its ends have z^2 more clusters at `lowest`, or at 1."""
    z2 = normal_quantile(0.5 + level / 2) ** 2
    low, high = ((clusters * mean + z2 * end) / (clusters + z2) for end in (lowest, 1.0))
    return min(mean, low), max(mean, high)


def resampled_means(values: Floats, codes: Codes, resamples: int = RESAMPLES) -> Floats:
    """[resamples] means of the values over clusters that are sampled with replacement.

    They are equal bit for bit on every CPU (`exact_sums`).

    Args:
        values: [n].
        codes: [n], the cluster of each value, in 0..C-1.
        resamples: The number of means.
    """
    sums, sizes = cluster_sums(values, codes)
    both = exactly_summable(np.stack([sums, sizes], axis=1), len(sizes))
    totals = np.concatenate([counts @ both for counts in resampled_counts(len(sizes), resamples)])
    means: Floats = totals[:, 0] / totals[:, 1]
    return means


def cluster_sums(values: Floats, codes: Codes) -> tuple[Floats, Floats]:
    """([C] sum of each cluster, [C] size of each cluster)."""
    sums = np.asarray(np.bincount(codes, weights=values), dtype=np.float64)
    return sums, np.bincount(codes).astype(np.float64)


def cluster_codes(clusters: Any) -> Codes:
    """Labels as numbers 0..C-1, in order of first appearance."""
    import pandas as pd

    labels = np.asarray(clusters)
    codes: Codes = pd.factorize(labels if labels.dtype.kind in "iu" else labels.astype(object))[0]
    return codes


def is_binary(values: ArrayLike) -> bool:
    """Whether all values are 0 or 1."""
    x = np.asarray(values, dtype=np.float64)
    return bool(np.all((x == 0) | (x == 1)))


@lru_cache
def normal_quantile(share: float) -> float:
    """The z below which this share of a standard normal distribution lies."""
    from scipy.special import ndtri

    return float(ndtri(share))


def resampled_counts(clusters: int, resamples: int) -> Iterator[Floats]:
    """How often each cluster is sampled, in pieces of [rows, C]. Equal arguments give equal counts."""
    if clusters * resamples <= 16 * MAX_ENTRIES:
        counts = _cached_counts(clusters, resamples)
        step = max(1, MAX_ENTRIES // clusters)
        yield from (counts[i : i + step].astype(np.float64) for i in range(0, resamples, step))
    else:
        yield from (counts.astype(np.float64) for counts in _sample_counts(clusters, resamples))


@lru_cache(maxsize=4)
def _cached_counts(clusters: int, resamples: int) -> NDArray[np.uint16]:
    return np.concatenate(list(_sample_counts(clusters, resamples)))


def _sample_counts(clusters: int, resamples: int) -> Iterator[NDArray[np.uint16]]:
    generator = StreamKey(0, "").numpy("bootstrap")
    step = max(1, MAX_ENTRIES // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        chosen = generator.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.uint16)


def design_effect(x: Floats, codes: Codes) -> float:
    """How many times the variance of the mean exceeds that of as many independent samples; at least 1.

    The variance is that of a linearized ratio mean:

        C/(C-1) sum_c (sum of c - mean x size of c)^2 / n^2,   over p(1-p)/(n-1)
    """
    sums, sizes = cluster_sums(x, codes)
    n, c, mean = len(x), len(sizes), float(x.mean())
    independent = float(np.var(x)) / (n - 1) if n > 1 else 0.0
    if c < 2 or independent == 0:
        return 1.0 if n == c else n / c
    clustered = c / (c - 1) * float(np.sum((sums - mean * sizes) ** 2)) / n**2
    return max(1.0, clustered / independent)


def _validate(values: ArrayLike, clusters: ArrayLike | None) -> tuple[Floats, Codes]:
    """([n] finite values, [n] cluster numbers). Raises ValueError for other values."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.all(np.isfinite(x)):
        raise ValueError("an interval needs at least one finite value.")
    codes = np.arange(len(x)) if clusters is None else cluster_codes(clusters)
    if len(codes) != len(x):
        raise ValueError(f"{len(x)} values and {len(codes)} clusters: each value needs a cluster.")
    return x, codes
