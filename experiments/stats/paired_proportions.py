"""The difference of two proportions on the same samples: the interval that agrees with the exact test at every size.

A right/wrong difference is the product of two shares, and both are estimated from separate facts:

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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import Floats, few_clusters_factor, mean_variance, normal_quantile, wilson_bounds
from experiments.stats.sign_flips import TwoSidedTest
from experiments.stats.significance import exact_sign_flip_p

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
    from scipy.special import ndtr

    p = exact_sign_flip_p(sums)
    phi = np.linspace(0, np.pi / 2, ANGLES)
    z = normal_quantile(0.5 + level / 2)
    share_low, share_high = _discordance(sums, sizes, level, z * np.sin(phi))
    tails = ndtr(-z * np.cos(phi))
    low, high = _Direction(sums, p <= 1 - level).bounds(tails), _Direction(-sums, p <= 1 - level).bounds(tails)
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
        from scipy.optimize import brentq

        target = _normal_scores(np.array([tail]))[0]

        def miss(log_odds: float) -> float:
            return float(_normal_scores(np.array([self.tail(log_odds)]))[0] - target)

        if miss(low) >= 0:
            return low if low else TOLERANCE
        if miss(high) <= 0:
            return high
        return max(float(brentq(miss, low, high, xtol=1e-9)), TOLERANCE if low == 0 else low)


def _normal_scores(tails: Floats) -> Floats:
    from scipy.special import ndtri

    scores: Floats = ndtri(np.clip(tails, 1e-15, 1 - 1e-15))
    return scores
