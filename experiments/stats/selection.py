"""The winner's curse: how much of a dev score comes from choosing the best of many sets on the queries that rate them.

Sets of demonstrations are rated by a matrix [sets, queries]. The scores of set s on query q are

    a(s, q) = mean + set s + query q + residual,    v = variance of the residual / queries,    T = variance of the sets

Queries are common to all sets and choose none, so only the residual is noise. With e the mean largest of R standard
normal numbers, the best of R sets has in expectation

    gain in pure noise = e sqrt(v)    dev gain = e sqrt(v + T)

The curse is the error of the chosen set that its dev gain implies. With w the variance of its own residual / queries,

    curse = dev gain w / (w + T)

Sets with large residuals are chosen more often, so w is usually above v. Independent normal errors are assumed. The
components of variance are those of a two-way layout with one value in a cell (Searle et al. 1992).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experiments.stats.intervals import Floats
from icl import scipy


@dataclass(frozen=True)
class SelectionForecast:
    """What choosing the best of several sets is worth, in units of the score.

    Attributes:
        noise: The dev gain if all sets were equally good.
        dev_gain: Dev score of the best set minus the mean set.
        curse: The part of it that other queries do not show.
    """

    noise: float
    dev_gain: float
    curse: float


@lru_cache
def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` independent standard normal numbers: 0 for one, 1.42 for eight."""

    def density(x: float) -> float:
        """x times the density of the maximum, in logarithms: the distribution function is tiny to a high power."""
        return float(x * count * np.exp((count - 1) * scipy.special.log_ndtr(x) - x * x / 2) / np.sqrt(2 * np.pi))

    return float(scipy.integrate.quad(density, -10, 10, points=[0.0], limit=200)[0])


def variance_components(scores: Floats) -> tuple[float, float]:
    """(variance of the residual of one score, variance of the true scores of sets, at least 0).

    Args:
        scores: [sets, queries], two or more of each.
    """
    sets, queries = scores.shape
    means = scores.mean(axis=1)
    residuals = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    residual = float((residuals**2).sum() / ((sets - 1) * (queries - 1)))
    return residual, max(0.0, float(means.var(ddof=1)) - residual / queries)


def forecast_selection(scores: Floats, chosen: Floats, sets: int) -> SelectionForecast:
    """The forecast for a set that was chosen on dev queries, from their scores alone.

    Args:
        scores: [sets, queries] dev scores of independent sets, two or more of each.
        chosen: [queries] dev scores of the chosen set.
        sets: The number of sets that it was chosen from.
    """
    residual, between = variance_components(scores)
    own = float((chosen - scores.mean(axis=0)).var(ddof=1)) / len(chosen)
    noise, largest = residual / len(chosen), expected_maximum(sets)
    gain = largest * (noise + between) ** 0.5
    return SelectionForecast(largest * noise**0.5, gain, gain * own / (own + between) if own else 0.0)
