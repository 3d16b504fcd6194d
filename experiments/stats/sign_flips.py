"""Tests of a mean difference by flips of the signs of clusters, and the intervals of all means they do not reject.

Graded scores (`sign_flip_test`):

    test      p is the share of the 2^C ways to flip the signs of C clusters that give a sum as far from 0 as the
              observed sum (Fisher 1935). It is exact if a cluster's differences are as likely with the other sign.
              This holds if the names of two arms can be exchanged, which is the null of all tests in `significance`.
    interval  The same test for every other mean m, on the values minus m. The mean of a subset of the clusters and the
              mean of the remaining clusters enclose exactly those m for which that flip does not bring the sum closer.
              So the ends are quantiles of the means of subsets (Hartigan's typical values, 1969).

Test and interval read the same flips, so the interval leaves out 0 exactly if p is at most 1 - level. With fewer than
six clusters p cannot reach .05, and the .95 interval is the whole range. With at most MAX_ENUMERATED clusters every
subset is used, otherwise a random sample of subsets and the full set.

If all clusters have the same mean d, the flips do not spread. The interval then ends at d (2 q - 1), where q is the
lower Clopper-Pearson bound of C positive signs among C, and at the mean with z^2 more clusters of the largest value.

Measured by `python -m lab.bench interval_coverage` (4,000 draws of each design), with 6, 8, 12, 20 and 50 clusters of
equal and of unequal sizes:

- The largest size at a nominal .05 is .033, .050, .054, .052 and .056.
- The power equals the power of Student's t for equal sizes and 8 or more clusters (for 6: .44 against .61). With
  unequal sizes the t-test rejects .07 to .09.
- If differences of mean 0 are skewed, no test keeps its level with few clusters. With nine small gains for each large
  loss, this test rejects .33 at 6 clusters and .07 at 50, as the t-test does.

Right/wrong scores (`paired_proportions_test`): the same flips, all of them (`significance.exact_sign_flip_p`). The
difference is the product of two shares, and both are estimated from separate facts:

    discordance   psi = sum_c |s_c| / n, the share of pairs that differ; s_c is the sum of the differences in cluster c
    direction     eta = 2 pi - 1, where pi is the probability that a cluster's difference is positive
    difference    delta = eta psi

    interval of eta    inverts the exact test of `significance`: all pi under which sum_c (± |s_c|) reaches the observed
                       sum, on either side, with a probability above (1 - level) / 2. With one pair per cluster these
                       are the Clopper-Pearson bounds of the discordant pairs. It leaves out 0 exactly if p is at most
                       1 - level.
    interval of psi    Wilson at the effective sample size of the clusters (`intervals`)
    interval of delta  Newcombe's propagation of imprecision (2011) of the two: the lowest and the highest product of
                       their bounds at normal quantiles z sin(phi) and z cos(phi), over all phi

The product has the sign of eta. So the interval of delta leaves out 0 exactly if p is at most 1 - level, at every
number of pairs and clusters. If no pair differs, it ends at plus and minus Wilson's bound of 0 in C clusters.
"""

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from math import floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import (
    Floats,
    few_clusters_factor,
    interval_without_spread,
    mean_variance,
    normal_quantile,
    wilson_bounds,
)
from experiments.stats.significance import exact_sign_flip_p
from icl import StreamKey, scipy

MAX_ENUMERATED = 12
"""With at most so many clusters, every subset of them is used."""
SAMPLED_SUBSETS = 9_999
"""The number of sampled subsets for more clusters. The full set makes it a round number."""
MAX_ENTRIES = 2_000_000
"""The largest number of entries of one piece of the subsets, so that memory does not grow with a run."""
ROUNDING = 1e-12


class TwoSidedTest(NamedTuple):
    """A two-sided p of a zero difference, and the interval of all differences that the same test does not reject."""

    p: float
    low: float
    high: float


def sign_flip_test(
    sums: Floats, sizes: Floats, level: float = 0.95, *, lowest: float = -1.0, highest: float = 1.0
) -> TwoSidedTest:
    """The test and the interval of the mean sum(sums) / sum(sizes).

    Args:
        sums: [C], the sum of the differences in each cluster.
        sizes: [C], the number of differences in each cluster.
        level: The confidence level.
        lowest: The lowest possible mean; the interval ends there if there are too few clusters.
        highest: The highest possible mean; the interval ends there if there are too few clusters.
    """
    mean = float(sums.sum() / sizes.sum())
    has_spread = np.ptp(sums / sizes) > ROUNDING
    sums = exactly_summable(sums, len(sums))
    slack = ROUNDING * max(1.0, float(np.abs(sums).sum()))
    pieces = []
    for chosen in subsets(len(sums)):
        halves = np.stack([chosen @ sums, (1 - chosen) @ sums])
        halves[np.abs(halves) <= slack] = 0.0
        pieces.append(enclosed_means(halves, np.stack([chosen @ sizes, (1 - chosen) @ sizes]), lowest, highest))
    result = invert_flips(np.concatenate(pieces, axis=1), level, lowest, highest)
    if has_spread:
        return result
    return TwoSidedTest(result.p, *interval_of_equal_clusters(mean, len(sums), result.p, level, (lowest, highest)))


def enclosed_means(numerators: Floats, denominators: Floats, lowest: float, highest: float) -> Floats:
    """[2, K]: for each flip the lowest and the highest mean under which it is as extreme as the observed sum.

    These are the two quotients.

    Args:
        numerators: [2, K]. For a mean, the sum of a subset of the clusters and the sum of the remaining ones.
        denominators: [2, K]. For a mean, their numbers of differences. A flip with a 0 is extreme under every mean.
        lowest: The lowest possible mean.
        highest: The highest possible mean.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        means = numerators / denominators
    undefined = ~np.isfinite(means).all(axis=0)
    return np.stack([np.where(undefined, lowest, means.min(axis=0)), np.where(undefined, highest, means.max(axis=0))])


def invert_flips(enclosed: Floats, level: float, lowest: float, highest: float) -> TwoSidedTest:
    """The share of flips that enclose 0, and the interval of the means that more than 1 - level of the flips enclose.

    Args:
        enclosed: [2, K], from `enclosed_means`.
        level: The confidence level.
        lowest: The lowest possible mean.
        highest: The highest possible mean.
    """
    lows, highs = enclosed
    p = float(np.mean((lows <= 0) & (highs >= 0)))
    place = floor((1 - level) * len(lows) + ROUNDING)
    low = float(np.partition(lows, place)[place])
    high = float(np.partition(highs, -1 - place)[-1 - place])
    return TwoSidedTest(p, min(max(lowest, low), highest), max(min(highest, high), lowest))


def interval_of_equal_clusters(
    mean: float, clusters: int, p: float, level: float, ends: tuple[float, float]
) -> tuple[float, float]:
    """The interval of a mean that is equal in all clusters. It leaves out 0 exactly if p is at most 1 - level.

    p is 2^(1 - C), or the share of that many flips in a sample of flips.
    """
    low, high = interval_without_spread(mean, clusters, level, *ends)
    if mean == 0:
        return low, high
    share = 2 * (0.5 - level / 2) ** (1 / clusters) - 1
    towards_zero = mean * (max(share, ROUNDING) if p <= 1 - level else min(share, 0.0))
    return (towards_zero, high) if mean > 0 else (low, towards_zero)


def subsets(clusters: int, samples: int = SAMPLED_SUBSETS) -> Iterator[Floats]:
    """Subsets of the clusters as rows of 0 and 1, in pieces of [rows, C]. Equal arguments give equal subsets.

    Args:
        clusters: The number C of clusters.
        samples: The number of random subsets, besides the full set, for more than MAX_ENUMERATED clusters.
    """
    step = max(1, MAX_ENTRIES // max(1, clusters))
    if clusters <= MAX_ENUMERATED or clusters * samples <= 16 * MAX_ENTRIES:
        chosen = _cached_subsets(clusters, samples)
        yield from (chosen[i : i + step].astype(np.float64) for i in range(0, len(chosen), step))
    else:
        yield from (piece.astype(np.float64) for piece in _sample_subsets(clusters, samples))


@lru_cache(maxsize=4)
def _cached_subsets(clusters: int, samples: int) -> NDArray[np.uint8]:
    if clusters <= MAX_ENUMERATED:
        return (np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1).astype(np.uint8)
    return np.concatenate(list(_sample_subsets(clusters, samples)))


def _sample_subsets(clusters: int, samples: int) -> Iterator[NDArray[np.uint8]]:
    yield np.ones((1, clusters), dtype=np.uint8)
    generator = StreamKey(0, "").numpy("subsets")
    step = max(1, MAX_ENTRIES // clusters)
    for start in range(0, samples, step):
        yield generator.integers(0, 2, (min(step, samples - start), clusters), dtype=np.uint8)


MANTISSA_BITS = 53


def exactly_summable(values: Floats, terms: int) -> Floats:
    """The values, rounded so that float64 adds up to `terms` of them (with repetition) exactly, in any order.

    Matrix products add in an order that depends on the BLAS library, the CPU and the shape of the operands. Multiples
    of one power of two add without rounding as long as the sum has at most 53 bits.

    The rounding is at most 2^-53 of the largest possible sum of the column. Whole numbers, such as sums of right and
    wrong answers, stay as they are.

    Args:
        values: [n] or [n, k]. Each column has its own grid.
        terms: The largest number of values in a sum.
    """
    largest = np.abs(values).max(axis=0, initial=0.0) * terms
    _, exponent = np.frexp(largest)
    grid = np.ldexp(1.0, exponent - MANTISSA_BITS)
    rounded: Floats = np.round(values / grid) * grid
    return rounded


ANGLES = 17
"""The number of ways to split the imprecision between the two shares."""
MAX_LOG_ODDS = 40.0
TOLERANCE = 1e-12
REACH = 10.0
"""Standard deviations of the flipped sum beyond which its masses are not computed."""


def paired_proportions_test(sums: Floats, sizes: Floats, level: float = 0.95) -> TwoSidedTest:
    """The exact test of the difference sum(sums) / sum(sizes), and the interval of the differences it does not reject.

    Args:
        sums: [C], the sum of the right/wrong differences in each cluster: whole numbers.
        sizes: [C], the number of pairs in each cluster.
        level: The confidence level.
    """
    p = exact_sign_flip_p(sums)
    phi = np.linspace(0, np.pi / 2, ANGLES)
    z = normal_quantile(0.5 + level / 2)
    share_low, share_high = _discordance(sums, sizes, level, z * np.sin(phi))
    tails = scipy.special.ndtr(-z * np.cos(phi))
    signs = np.sort(sums[sums != 0])
    low, high = (_eta_bounds(one.tobytes(), p <= 1 - level, tails.tobytes()) for one in (signs, -signs[::-1]))
    return TwoSidedTest(
        p,
        float(np.minimum(low * share_low, low * share_high).min()),
        -float(np.minimum(high * share_low, high * share_high).min()),
    )


def _discordance(sums: Floats, sizes: Floats, level: float, z: Floats) -> tuple[Floats, Floats]:
    """Bounds of the share of discordant pairs at several normal quantiles."""
    discordant, n = np.abs(sums), float(sizes.sum())
    share = float(discordant.sum()) / n
    if share in (0.0, 1.0):
        return wilson_bounds(share, len(sums), z)
    variance = mean_variance(discordant, sizes, share * (1 - share))
    size = share * (1 - share) / variance if variance else float(len(sums))
    return wilson_bounds(share, size * (1.0 if len(sums) == n else few_clusters_factor(sizes, level)), z)


@lru_cache(maxsize=4096)
def _eta_bounds(sums: bytes, is_significant: bool, tails: bytes) -> Floats:
    """`_Direction.bounds` of sorted sums without zeros. The pages of a report ask for many of them several times."""
    return _Direction(np.frombuffer(sums), is_significant).bounds(np.frombuffer(tails))


class _Direction:
    """The exact lower bounds of eta, from the distribution of the flipped sum under any probability of a + sign.

    Args:
        sums: [C], whole numbers.
        is_significant: Whether the exact test rejects, which decides on which side of 0 the outermost bound lies.
    """

    def __init__(self, sums: Floats, is_significant: bool) -> None:
        sizes = np.abs(np.round(sums)).astype(np.int64)
        self.values, self.counts = np.unique(sizes[sizes > 0], return_counts=True)
        self.total = int(sizes.sum())
        positive = (int(np.round(sums.sum())) + self.total) // 2
        self.positive, self.is_significant = positive, is_significant and 2 * positive > self.total

    def bounds(self, tails: Floats) -> Floats:
        """[k] values of eta at which a sum as high as the observed one has these probabilities; -1 if none has.

        Args:
            tails: [k], rising, at most 1/2.
        """
        if not self.positive:
            return np.full(len(tails), -1.0)
        outer = self._solve(float(tails[0]), *((0.0, MAX_LOG_ODDS) if self.is_significant else (-MAX_LOG_ODDS, 0.0)))
        inner = self._solve(0.5, outer, MAX_LOG_ODDS)
        grid = np.linspace(outer, inner, len(tails))
        z = _normal_scores(np.array([self.tail(x) for x in grid]))
        z[0] = _normal_scores(tails[:1])[0]
        log_odds = np.interp(_normal_scores(tails), np.maximum.accumulate(z), grid)
        eta: Floats = np.tanh(log_odds / 2)
        return eta

    def tail(self, log_odds: float) -> float:
        """P(the flipped sum is at least the observed one), if a sign is + with these log odds."""
        pi = 1 / (1 + np.exp(-log_odds))
        spectrum = np.prod((1 - pi + pi * self._roots) ** self.counts[:, None], axis=0)
        first = max(0, min(int(pi * self.total) - self._length // 2, self.total + 1 - self._length))
        masses = np.roll(np.fft.irfft(spectrum, self._length), -first)  # of the sums from `first` on
        return float(np.clip(masses[max(0, self.positive - first) :].sum(), 0.0, 1.0))

    @cached_property
    def _length(self) -> int:
        """The number of sums whose masses are computed: all, or as many as `REACH` standard deviations around the mean.

        The transform adds the masses of sums that differ by the length. By Hoeffding's inequality the others' masses
        are less than 1e-20 together.
        """
        deviation = float(np.sqrt((self.counts * self.values**2).sum())) / 2  # of fair signs, the largest
        return min(self.total + 1, 2 * math.ceil(REACH * deviation) + 1)

    @cached_property
    def _roots(self) -> NDArray[np.complex128]:
        """[values, frequencies]: the characteristic function of a cluster's positive sum, as a discrete transform."""
        frequencies = np.arange(self._length // 2 + 1) / self._length
        roots: NDArray[np.complex128] = np.exp(-2j * np.pi * self.values[:, None] * frequencies)
        return roots

    def _solve(self, tail: float, low: float, high: float) -> float:
        """The log odds in [low, high] with this tail, which rises with the odds; the nearest end if none has."""
        target = _normal_scores(np.array([tail]))[0]

        def miss(log_odds: float) -> float:
            return float(_normal_scores(np.array([self.tail(log_odds)]))[0] - target)

        if miss(low) >= 0:
            return low if low else TOLERANCE
        if miss(high) <= 0:
            return high
        return max(float(scipy.optimize.brentq(miss, low, high, xtol=1e-9)), TOLERANCE if low == 0 else low)


def _normal_scores(tails: Floats) -> Floats:
    scores: Floats = scipy.special.ndtri(np.clip(tails, 1e-15, 1 - 1e-15))
    return scores
