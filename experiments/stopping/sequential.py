"""Tests and intervals of paired differences that stay valid when a run is looked at while it grows.

C clusters are planned, in an order that is fixed before the run. Look k comes after n_k clusters, at t_k = n_k / C.
With s_i the sum of arm minus reference over the pairs of cluster i, S_k = s_1 + ... + s_{n_k}.

    sign walk   Given all |s_i|, the signs are fair and independent if the names of the arms can be exchanged within a
                cluster (the null of `significance.exact_sign_flip_p`, which is the walk with one look). So the law of
                the walk S is known. At each look the largest |S| are rejected, as many as the spent level allows:
                level t^rho at time t (Lan and DeMets 1983; Kim and DeMets 1987).
    ladder      Several levels at once. A lower level never decides later than a higher one (Maurer and Bretz 2013), so
                the least level that has rejected is a p-value at any stopping time, and Holm's method applies to it.
    interval    Repeated confidence interval (Jennison and Turnbull 1989) with the boundaries of the walk of unit steps.
    futility    Predictive power: the chance of a decision in the planned clusters, given the data (Spiegelhalter,
                Freedman and Blackburn 1986). It spends no error.
    mean 0      An e-process for a mean of 0 under any skew (Waudby-Smith and Ramdas 2024). It has less power.

Sums of right/wrong differences are whole. Graded sums are rounded to a grid (`lattice`); the test stays exact, since
the rounded sum is an odd function of the sum.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats import normal_quantile
from icl import scipy

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

LATTICE_REACH = 8.5
"""Standard deviations of a walk's sum that its lattice has. What leaves it, less than 1e-16, is never rejected."""
GRID_STEPS = 20
"""The steps of the grid of graded sums up to the largest sum of the first look."""
UNIT_STEPS = 20_000
"""The unit steps of the walk that gives the boundaries of z."""
LEAST_DIFFERING = 10
"""The number of clusters that differ below which the repeated interval is [-1, 1]: it would cover too little."""
ROUNDING = 1e-12
"""Mass by which the spent level may be exceeded."""
BETS = np.geomspace(0.01, 0.98, 64)
"""The stakes over which the e-process of a zero mean is averaged, for either sign."""


def look_sizes(planned: int, looks: int) -> list[int]:
    """The numbers of clusters of the looks: ceil(C k / K) for k = 1..K, without repetitions."""
    return sorted({ceil(planned * k / looks) for k in range(1, looks + 1)})


def ladder(m: int, alpha: float = 0.05) -> Floats:
    """The levels of an anytime p of m comparisons, ascending: alpha / i for i = m and Fibonacci numbers below .75 m."""
    divisors, one, other = {m}, 1, 2
    while one < 0.75 * m:
        divisors.add(one)
        one, other = other, one + other
    return np.array([alpha / i for i in sorted(divisors, reverse=True)])


class SpentLevel:
    """The mass of a null distribution that is left at each level of a ladder, while looks reject its extremes.

    Args:
        levels: [L], ascending.
        rho: The power of t in the spent level.
        points: The number of points of the distribution, each of mass 1.
    """

    def __init__(self, levels: ArrayLike, rho: float = 2.0, points: int = 1) -> None:
        self.levels, self.rho, self.total = np.asarray(levels, dtype=np.float64), rho, points
        self.killed = np.zeros(len(self.levels))
        self.alive = np.ones((len(self.levels), points))

    def reject(self, sizes: NDArray[Any], time: float) -> Floats:
        """Rejects the largest values at a look, ties together, as many as the spent level allows.

        Args:
            sizes: The absolute value of each point.
            time: The share of the planned clusters, in (0, 1].

        Returns:
            [L]: the least value that each level rejects; infinite if it rejects none. A lower level never rejects more.
        """
        values, place = np.unique(sizes, return_inverse=True)
        bounds = np.full(len(self.levels), inf)
        level = killed = 0.0
        bound = inf
        for i, this in enumerate(self.levels):
            tails = np.cumsum(np.bincount(place, self.alive[i])[::-1])[::-1]
            budget = killed + (this - level) * self.total * time**self.rho
            allowed = np.flatnonzero((self.killed[i] + tails <= budget + ROUNDING * self.total) & (values > 0))
            bounds[i] = bound = min(bound, float(values[allowed[0]])) if len(allowed) else bound
            rejected = sizes >= bound
            self.killed[i] += self.alive[i, rejected].sum()
            self.alive[i, rejected] = 0
            level, killed = float(this), float(self.killed[i])
        return bounds


class SignWalk(SpentLevel):
    """The law of a walk with random signs: `alive` has the mass of each sum from -radius to radius."""

    def __init__(self, levels: ArrayLike, rho: float = 2.0) -> None:
        super().__init__(levels, rho)
        self.sum, self.squares = 0, 0

    def step(self, size: int) -> None:
        """Adds a cluster with |s| = size. A cluster without a difference changes nothing."""
        if not size:
            return
        self.sum += size
        self.squares += size * size
        old, reach = self.alive.shape[1] // 2, min(self.sum, ceil(LATTICE_REACH * sqrt(self.squares)))
        wide = np.zeros((len(self.levels), 2 * (old + size) + 1))
        wide[:, 2 * size :] += self.alive / 2
        wide[:, : wide.shape[1] - 2 * size] += self.alive / 2
        cut = max(0, old + size - reach)
        self.alive = wide[:, cut : wide.shape[1] - cut]

    def look(self, time: float) -> Floats:
        """[L]: the least |S| that each level rejects at a look; infinite if it rejects no possible sum."""
        radius = self.alive.shape[1] // 2
        return self.reject(np.abs(np.arange(-radius, radius + 1)), time)


def boundaries(sizes: ArrayLike, looks: Sequence[int], planned: int, levels: ArrayLike, rho: float = 2.0) -> Floats:
    """The rejected sums of a sign walk at each look.

    Args:
        sizes: [n] whole |s_i| of the clusters in their order.
        looks: [K] numbers of clusters, ascending, at most n.
        planned: The number C of planned clusters.
        levels: [L], ascending.
        rho: The power of t in the spent level.

    Returns:
        [K, L]: the least |S| that is rejected; infinite if no possible sum is.
    """
    walk, before, rows = SignWalk(levels, rho), 0, []
    whole = np.abs(np.asarray(sizes)).astype(np.int64)
    for n in looks:
        for size in whole[before:n].tolist():
            walk.step(size)
        rows.append(walk.look(n / planned))
        before = n
    return np.array(rows).reshape(len(looks), len(walk.levels))


def lattice(sums: ArrayLike, first: int) -> Whole:
    """Graded sums on a grid of whole numbers, rounded half away from 0.

    The unit is 1/GRID_STEPS of the largest |s| of the first `first` clusters, else of the first |s| above 0. It depends
    on absolute values only, so that the signs stay fair.

    Args:
        sums: [n], in the order of the clusters.
        first: The number of clusters of the first look.
    """
    values = np.asarray(sums, dtype=np.float64)
    sizes = np.abs(values)
    largest = sizes[:first].max(initial=0.0) or next(iter(sizes[sizes > 0]), 0.0)
    whole = np.floor(sizes / (largest / GRID_STEPS) + 0.5) if largest else np.zeros(len(values))
    return (np.sign(values) * whole).astype(np.int64)


@lru_cache(maxsize=256)
def z_boundaries(times: tuple[float, ...], level: float, rho: float = 2.0) -> tuple[float, ...]:
    """The boundaries of z = S / sqrt(sum s^2) at looks at these times, computed with UNIT_STEPS unit steps."""
    steps = [max(1, round(time * UNIT_STEPS)) for time in times]
    bounds = boundaries(np.ones(steps[-1], dtype=np.int64), steps, UNIT_STEPS, [level], rho)[:, 0]
    return tuple(float(b) / sqrt(n) for b, n in zip(bounds, steps, strict=True))


def repeated_interval(sums: ArrayLike, sizes: ArrayLike, c: float) -> tuple[float, float]:
    """The interval of the mean difference at a look: all d with |sum(s - d N)| < c sqrt(sum (s - d N)^2).

    Args:
        sums: [n] sums of the clusters so far.
        sizes: [n] numbers N of their pairs.
        c: The boundary of z at this look (`z_boundaries`).

    Returns:
        (low, high), in [-1, 1]; (-1, 1) while fewer than LEAST_DIFFERING clusters differ.
    """
    s, n = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if np.count_nonzero(s) < LEAST_DIFFERING or not np.isfinite(c):
        return -1.0, 1.0
    a = n.sum() ** 2 - c * c * np.sum(n * n)
    b = s.sum() * n.sum() - c * c * np.sum(s * n)
    q = s.sum() ** 2 - c * c * np.sum(s * s)
    inside = b * b - a * q
    if a <= 0 or inside < 0:
        return -1.0, 1.0
    low, high = float((b - sqrt(inside)) / a), float((b + sqrt(inside)) / a)
    return max(-1.0, low), min(1.0, high)


def predictive_power(z: Any, t: Any, level: float) -> Any:
    """The chance that a fixed test at `level` decides after all planned clusters, given z at time t < 1: both numbers,
    or arrays that broadcast.
    """
    critical, spread = normal_quantile(1 - level / 2), np.sqrt((1 - t) / t)
    return sum(scipy.special.ndtr((sign * abs(z) / np.sqrt(t) - critical) / spread) for sign in (1, -1))


def zero_mean_p(values: ArrayLike) -> Floats:
    """The p-value of a zero mean under any skew, valid at any time: 1 / the largest value of an e-process so far.

    Args:
        values: [n] in [-1, 1], in the order of the clusters.

    Returns:
        [n], never rising.
    """
    x = np.asarray(values, dtype=np.float64)[:, None]
    logs = np.concatenate([np.cumsum(np.log1p(sign * BETS * x), axis=0) for sign in (1, -1)], axis=1)
    wealth = np.logaddexp.reduce(logs, axis=1) - np.log(2 * len(BETS))
    return np.exp(-np.maximum.accumulate(np.maximum(wealth, 0.0)))


def holm_decided(p: ArrayLike, family: int, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Which comparisons Holm's method decides: the next p is at most alpha / (family - number decided).

    The thresholds are computed as `ladder` computes its levels, so that equal ones are equal.

    Args:
        p: [n] anytime p-values, n <= family.
        family: The number m of planned comparisons.
        alpha: The level of the family.
    """
    values = np.asarray(p, dtype=np.float64)
    decided = np.zeros(len(values), dtype=bool)
    for count, i in enumerate(np.argsort(values, kind="stable")):
        if not values[i] <= alpha / (family - count):
            break
        decided[i] = True
    return decided
