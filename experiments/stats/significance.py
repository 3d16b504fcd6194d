"""Tests of paired right/wrong differences, and the correction for several tests.

    McNemar (1947), exact   Of the b + c pairs on which the arms differ, b went one way:  p = P(|2B - n| >= |b - c|),
                            B ~ Binomial(b + c, 1/2). Two-sided, without mid-p.
    clusters                The signs of all differences of a cluster are flipped together, each way with probability
                            1/2 (a randomization test with whole-block exchange: Winkler et al. 2014). The null
                            distribution of the sum is computed exactly, as a convolution of binomials. With one pair
                            per cluster this is McNemar's test.
    graded scores           the same flips of the clusters' sums, all of them or a sample (`sign_flips`)
    several tests           Holm (1979), step-down: p_(i) times (m - i + 1), made monotone

The null of all of them: swapping the names of the two arms within a cluster leaves its distribution unchanged.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import Floats, cluster_codes, cluster_sums


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p of the discordant counts; 1 if there are none."""
    from scipy.special import bdtr

    n = right_to_wrong + wrong_to_right
    return min(1.0, 2 * float(bdtr(min(right_to_wrong, wrong_to_right), n, 0.5))) if n else 1.0


def exact_sign_flip_p(differences: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Exact two-sided p of the sum of whole differences, with the signs of a cluster flipped together.

    Args:
        differences: [n] whole numbers; -1, 0 or 1 for right/wrong metrics.
        clusters: [n], any hashable labels. By default each difference is a cluster.

    Raises:
        ValueError: If a difference is not whole.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not np.all(d == np.round(d)):
        raise ValueError("an exact sign-flip test needs whole differences; graded metrics take sign_flip_p.")
    sums = d if clusters is None else cluster_sums(d, cluster_codes(clusters))[0]
    whole = np.round(sums).astype(np.int64)
    observed = abs(int(whole.sum()))
    null = _null_distribution(np.abs(whole))
    largest_sum = (len(null) - 1) // 2
    p = float(null[np.abs(np.arange(-largest_sum, largest_sum + 1)) >= observed].sum())
    return min(1.0, p)


def holm(p: ArrayLike) -> Floats:
    """Adjusts p-values for the number of tests: reject those whose adjusted p is at most the level.

    Args:
        p: [m] p-values.

    Returns:
        [m] adjusted p-values, in the same order.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def _null_distribution(sizes: NDArray[np.int64]) -> Floats:
    """P(sum of ±sizes = s) for s = -S..S, where S is the sum of the sizes.

    The k sizes of value v contribute v (2 Binomial(k, 1/2) - k): one convolution per distinct value.
    """
    from scipy.special import gammaln

    null = np.ones(1)
    for value, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        step = np.zeros(2 * value * count + 1)
        k = np.arange(count + 1)
        step[:: 2 * value] = np.exp(gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1) - count * np.log(2))
        null = np.convolve(null, step)
    return null
