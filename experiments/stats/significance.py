"""Tests of paired differences, and the correction for making several.

    McNemar (1947), exact:  of the b + c pairs on which the arms differ, b went one way;  p = P(|2B - n| >= |b - c|),
                            B ~ Binomial(b + c, 1/2). Two-sided, no mid-p.
    clusters:               the sign of all differences of a cluster is flipped together, each way with probability 1/2
                            (a randomization test with whole-block exchange: Winkler et al. 2014). The null distribution
                            of the sum is computed exactly, as a convolution of binomials. One pair a cluster: McNemar.
    graded:                 the same flips of the clusters' sums, all or a sample of them (`subsets`)
    several:                Holm (1979), step-down: p_(i) times (m - i + 1), made monotone.

The null of them: exchanging the names of the two arms within a cluster leaves its distribution alone.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import Floats, cluster_codes, cluster_sums


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p of the discordant counts; 1 where there are none."""
    from scipy.special import bdtr

    n = right_to_wrong + wrong_to_right
    return min(1.0, 2 * float(bdtr(min(right_to_wrong, wrong_to_right), n, 0.5))) if n else 1.0


def exact_sign_flip_p(differences: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Exact two-sided p that integer differences sum to this much, signs flipped by cluster.

    differences: [n] of integers, for right/wrong metrics -1, 0 or 1. Raises ValueError for fractions.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not np.all(d == np.round(d)):
        raise ValueError("an exact sign-flip test needs whole differences; graded metrics take exchange_p.")
    sums = d if clusters is None else cluster_sums(d, cluster_codes(clusters))[0]
    whole = np.round(sums).astype(np.int64)
    observed = abs(int(whole.sum()))
    null = _null_of_sum(np.abs(whole))
    reach = (len(null) - 1) // 2
    p = float(null[np.abs(np.arange(-reach, reach + 1)) >= observed].sum())
    return min(1.0, p)


def holm(p: ArrayLike) -> Floats:
    """[m] p-values -> [m] adjusted ones, in the same order: reject where they are at most the level."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def _null_of_sum(sizes: NDArray[np.int64]) -> Floats:
    """P(sum of ±sizes = s) for s = -S..S, S the sum of the sizes.

    The k sizes of value v contribute v (2 Binomial(k, 1/2) - k): one convolution a distinct value.
    """
    from scipy.special import gammaln

    null = np.ones(1)
    for value, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        step = np.zeros(2 * value * count + 1)
        k = np.arange(count + 1)
        step[:: 2 * value] = np.exp(gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1) - count * np.log(2))
        null = np.convolve(null, step)
    return null
