"""Intervals of one proportion or one mean, over samples that come in clusters.

A cluster is what was drawn together: the questions about one image, and the same question under several seeds. The
intervals treat clusters as the independent units, never the samples, so three seeds of 200 queries are 200 units.

What they cover: other queries of the same kind, and with them other draws of demonstrations (a draw belongs to the
query and the seed, so it varies with the query). What they do not: another pool, model, prompt or task.

    Wilson (1927):  center (p + z^2/2n) / (1 + z^2/n),   half  z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    clusters:       n replaced by n / deff,  deff = (variance of the clustered mean) / (variance of n independent ones),
                    at least 1 (Kish 1965; with Wilson: Dean and Pagano 2015). One sample a cluster is plain Wilson.
    means:          percentiles of the mean over resampled clusters (Efron and Tibshirani 1993, ch. 13); of fewer than
                    FEW clusters, where these cover too little, typical values (`subsets`). Where all are the same,
                    nothing is known of the spread: the ends are the means with z^2 clusters more at 0, or at 1 (for
                    values of 0 or 1 that is Wilson)

Values are scores of single samples, in [0, 1]. Where all of them are 0 or 1 they are taken as right or wrong, whatever
else the metric could have given: no other score in [0, 1] of that mean varies more. What a metric of a whole run puts
in its column is no such score (`whole`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.formatting import FEW_UNITS
from experiments.stats.sign_flips import sign_flip_interval
from icl.streams import StreamKey

Floats = NDArray[np.float64]

RESAMPLES = 10_000
CHUNK = 2_000_000
"""Resampled cluster counts are made in pieces of at most so many numbers, so memory does not grow with a run."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. samples: how many were averaged; clusters: how many independent units they are."""

    mean: float
    low: float
    high: float
    samples: int
    clusters: int

    @property
    def half(self) -> float:
        """Half the width: what a table shows after '±' (Wilson intervals are not centered on the mean)."""
        return (self.high - self.low) / 2


def wilson(right: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of a proportion. n may be an effective size. Raises ValueError for n <= 0 or right outside 0..n."""
    if n <= 0 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n} is not a proportion.")
    z2, p = normal_quantile(0.5 + level / 2) ** 2, right / n
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))) / (1 + z2 / n)
    return max(0.0, center - half), min(1.0, center + half)


def estimate_proportion(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """Share of ones with a Wilson interval at the clusters' effective size.

    values: [n] of 0 and 1. clusters: [n] of anything hashable. Where every value is the same the clusters' variance
    says nothing, and the number of clusters is taken as the size.
    """
    x, codes = _checked(values, clusters)
    mean, n, c = float(x.mean()), len(x), int(codes.max()) + 1
    size = float(c) if mean in (0.0, 1.0) else n / design_effect(x, codes)
    low, high = wilson(mean * size, size, level)
    return Estimate(mean, low, high, n, c)


def design_effect(values: ArrayLike, clusters: ArrayLike) -> float:
    """How many times the variance of the mean exceeds that of as many independent samples; at least 1.

    Variance of a ratio mean, linearized: C/(C-1) sum_c (sum of c - mean x size of c)^2 / n^2, over p(1-p)/(n-1).
    """
    x, codes = _checked(values, clusters)
    sums, sizes = cluster_sums(x, codes)
    n, c, mean = len(x), len(sizes), float(x.mean())
    independent = float(np.var(x)) / (n - 1) if n > 1 else 0.0
    if c < 2 or independent == 0:
        return 1.0 if n == c else n / c
    clustered = c / (c - 1) * float(np.sum((sums - mean * sizes) ** 2)) / n**2
    return max(1.0, clustered / independent)


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95, resamples: int = RESAMPLES
) -> Estimate:
    """Mean with the percentile interval of a cluster bootstrap. Deterministic: one fixed stream."""
    x, codes = _checked(values, clusters)
    means = resampled_means(x, codes, resamples)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(x.mean()), float(low), float(high), len(x), int(codes.max()) + 1)


def estimate_graded_mean(
    values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95, *, least: float = 0.0, most: float = 1.0
) -> Estimate:
    """Mean with the interval of a bootstrap, and of fewer than FEW clusters with that of `subsets`.

    least, most: what the mean can be; where values lie beyond, as far as these do.
    """
    x, codes = _checked(values, clusters)
    count = int(codes.max()) + 1
    if count >= FEW_UNITS:
        return bootstrap_mean(x, codes, level)
    if np.ptp(x) == 0:
        return Estimate(float(x[0]), float(x[0]), float(x[0]), len(x), count)
    least, most = min(least, float(x.min())), max(most, float(x.max()))
    low, high = sign_flip_interval(*cluster_sums(x, codes), level, least=least, most=most)
    return Estimate(float(x.mean()), low, high, len(x), count)


def estimate_mean(values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """Wilson where the values are right or wrong; where they are graded see `graded_mean`."""
    if is_binary(values):
        return estimate_proportion(values, clusters, level)
    found = estimate_graded_mean(values, clusters, level)
    if found.low < found.high or not 0 <= found.mean <= 1:
        return found
    low, high = interval_without_spread(found.mean, found.clusters, level, least=0.0)
    return replace(found, low=low, high=high)


def interval_without_spread(
    mean: float, clusters: int, level: float = 0.95, least: float = -1.0
) -> tuple[float, float]:
    """Ends for a mean that is the same in all clusters: with z^2 clusters more at `least`, and at 1."""
    z2 = normal_quantile(0.5 + level / 2) ** 2
    low, high = ((clusters * mean + z2 * end) / (clusters + z2) for end in (least, 1.0))
    return min(mean, low), max(mean, high)


def resampled_means(values: Floats, codes: NDArray[np.intp], resamples: int = RESAMPLES) -> Floats:
    """[resamples] means of the values over clusters drawn with replacement. codes: [n] in 0..C-1."""
    sums, sizes = cluster_sums(values, codes)
    both = np.stack([sums, sizes], axis=1)
    drawn = np.concatenate([counts @ both for counts in resampled_counts(len(sizes), resamples)])
    means: Floats = drawn[:, 0] / drawn[:, 1]
    return means


def cluster_sums(values: Floats, codes: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """([C] sum of each cluster, [C] its size)."""
    sums = np.asarray(np.bincount(codes, weights=values), dtype=np.float64)
    return sums, np.bincount(codes).astype(np.float64)


def cluster_codes(clusters: Any) -> NDArray[np.intp]:
    """Labels as numbers 0..C-1, in order of first appearance."""
    import pandas as pd

    codes: NDArray[np.intp] = pd.factorize(np.asarray(clusters, dtype=object))[0]
    return codes


def is_binary(values: ArrayLike) -> bool:
    """All values are 0 or 1."""
    x = np.asarray(values, dtype=np.float64)
    return bool(np.all((x == 0) | (x == 1)))


def normal_quantile(share: float) -> float:
    """z below which this share of a standard normal lies."""
    from scipy.special import ndtri

    return float(ndtri(share))


def resampled_counts(clusters: int, resamples: int) -> Iterator[Floats]:
    """How often each cluster is drawn, [rows, C] at a time; the same for every call with these numbers."""
    if clusters * resamples <= 16 * CHUNK:
        whole = _cached_counts(clusters, resamples)
        step = max(1, CHUNK // clusters)
        yield from (whole[i : i + step].astype(np.float64) for i in range(0, resamples, step))
    else:
        yield from (counts.astype(np.float64) for counts in _drawn_counts(clusters, resamples))


@lru_cache(maxsize=4)
def _cached_counts(clusters: int, resamples: int) -> NDArray[np.uint16]:
    return np.concatenate(list(_drawn_counts(clusters, resamples)))


def _drawn_counts(clusters: int, resamples: int) -> Iterator[NDArray[np.uint16]]:
    generator = StreamKey(0, "").numpy("bootstrap")
    step = max(1, CHUNK // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.uint16)


def _checked(values: ArrayLike, clusters: ArrayLike | None) -> tuple[Floats, NDArray[np.intp]]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.all(np.isfinite(x)):
        raise ValueError("an interval needs at least one finite value.")
    codes = np.arange(len(x)) if clusters is None else cluster_codes(clusters)
    if len(codes) != len(x):
        raise ValueError(f"{len(x)} values and {len(codes)} clusters: one cluster a value is needed.")
    return x, codes
