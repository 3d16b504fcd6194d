"""Tests of paired right/wrong differences, and the correction for several tests.

    McNemar (1947), exact   Of the b + c pairs on which the arms differ, b went one way:  p = P(|2B - n| >= |b - c|),
                            B ~ Binomial(b + c, 1/2). Two-sided, without mid-p.
    clusters                The signs of all differences of a cluster are flipped together, each way with probability
                            1/2 (a randomization test with whole-block exchange: Winkler et al. 2014). The null
                            distribution of the sum is computed exactly, as a convolution of binomials. With one pair
                            per cluster this is McNemar's test.
    graded scores           the same flips of the clusters' sums, all of them or a sample (`sign_flips`)
    several tests           Holm (1979), step-down: p_(i) times (m - i + 1), made monotone
    intervals               The factor by which a correction raised p divides the level of the interval (Efird and
                            Nielsen 2008, for Holm). So the interval leaves out 0 exactly if the corrected p is at most
                            SIGNIFICANCE_LEVEL.
    several topics          weighted step-down tests: the level is divided equally among the topics that have a
                            hypothesis left, and equally in a topic. A topic passes its share on when all its hypotheses
                            are rejected (Bretz, Maurer, Brannath and Posch 2009). The weights of a hypothesis never
                            fall as others are rejected, so this is a closed test: the chance of any false rejection in
                            any topic is at most the level (Hommel, Bretz and Maurer 2007). With one topic it is Holm.

The null of all of them: swapping the names of the two arms within a cluster leaves its distribution unchanged.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import Floats, cluster_codes, cluster_sums
from icl import scipy

SIGNIFICANCE_LEVEL = 0.05
ROUNDING = 1e-9


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p of the discordant counts; 1 if there are none."""
    n = right_to_wrong + wrong_to_right
    return min(1.0, 2 * float(scipy.special.bdtr(min(right_to_wrong, wrong_to_right), n, 0.5))) if n else 1.0


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


def holm(p: ArrayLike, topics: ArrayLike | None = None) -> Floats:
    """Adjusts p-values for the number of tests: reject those with an adjusted p of at most the level.

    Args:
        p: [m] p-values.
        topics: [m] labels. Each topic has the same share of the level. By default there is one topic.

    Returns:
        [m] adjusted p-values, in the same order.
    """
    values = np.asarray(p, dtype=np.float64)
    labels = np.zeros(len(values), dtype=np.int64) if topics is None else np.unique(topics, return_inverse=True)[1]
    left = np.bincount(labels) if len(values) else np.zeros(0, dtype=np.int64)
    adjusted, highest = np.empty_like(values), 0.0
    queues = [
        list(np.flatnonzero(labels == t)[np.argsort(values[labels == t], kind="stable")]) for t in range(len(left))
    ]
    for _ in values:
        first = min((t for t, queue in enumerate(queues) if queue), key=lambda t: values[queues[t][0]] * len(queues[t]))
        place = queues[first][0]
        highest = max(highest, values[place] * len(queues[first]) * sum(map(bool, queues)))
        adjusted[queues[first].pop(0)] = min(1.0, highest)
    return adjusted


def level_of_test(p: float, corrected: float, family: int) -> float:
    """The level of a test that rejects exactly if its corrected p is at most SIGNIFICANCE_LEVEL.

    Args:
        p: The p of the test before the correction.
        corrected: Its p after the correction. Where this was cut at 1, the factor of the correction is `family`.
        family: The number of tests that p was corrected for.
    """
    factor = corrected / p if p > 0 and corrected < 1 else float(family)
    level = SIGNIFICANCE_LEVEL / max(1.0, factor)
    # rounding must not put the level on the wrong side of p
    return max(level, p * (1 + ROUNDING)) if corrected <= SIGNIFICANCE_LEVEL else min(level, p * (1 - ROUNDING))


def _null_distribution(sizes: NDArray[np.int64]) -> Floats:
    """P(sum of ±sizes = s) for s = -S..S, where S is the sum of the sizes.

    The k sizes of value v contribute v (2 Binomial(k, 1/2) - k): one convolution per distinct value.
    """
    null = np.ones(1)
    for value, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        step = np.zeros(2 * value * count + 1)
        k = np.arange(count + 1)
        step[:: 2 * value] = np.exp(
            scipy.special.gammaln(count + 1)
            - scipy.special.gammaln(k + 1)
            - scipy.special.gammaln(count - k + 1)
            - count * np.log(2)
        )
        null = np.convolve(null, step)
    return null


POWER = 0.8
DISCORDANCE = 0.2
"""An assumption before there are data: the two arms answer one pair in five differently."""


def smallest_detectable_difference(pairs: int, discordance: float = DISCORDANCE) -> float:
    """The smallest difference in accuracy that the test detects with probability POWER; infinite if not even 1.

    For n independent right/wrong pairs with a share psi of pairs that differ (Miettinen 1968; Connor 1987):

        sqrt(n) delta = z_(1-level/2) sqrt(psi) + z_power sqrt(psi - delta^2),   solved for delta

    A difference cannot exceed the share of pairs that differ. If the solution has delta > psi, the result is the
    smallest delta that is detected if all differing pairs go one way (psi = delta). This is a normal approximation.

    Args:
        pairs: The number of independent pairs: queries or groups, not queries x seeds.
        discordance: The share of pairs that differ.

    Raises:
        ValueError: For less than one pair or a discordance outside (0, 1].
    """
    if pairs < 1 or not 0 < discordance <= 1:
        raise ValueError("needs at least one pair and a discordance above 0 and at most 1.")
    delta = _solved(pairs, discordance)
    if delta <= discordance:
        return delta
    return next((d for d in (i / 10_000 for i in range(1, 10_001)) if _solved(pairs, d) <= d), math.inf)


def _solved(n: int, psi: float) -> float:
    """The larger root of (n + zb^2) d^2 - 2 sqrt(n psi) za d + (za^2 - zb^2) psi = 0."""
    za, zb = map(NormalDist().inv_cdf, (1 - SIGNIFICANCE_LEVEL / 2, POWER))  # a plan needs no scipy
    inside = n + zb * zb - za * za
    if inside < 0:
        return math.inf
    return math.sqrt(psi) * (math.sqrt(n) * za + zb * math.sqrt(inside)) / (n + zb * zb)
