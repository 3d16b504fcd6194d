"""What a comparison costs that ends when it is decided: the expected share of its clusters, and its power.

The standardized sum of the clusters so far is simulated as a random walk with drift theta = effect sqrt(C / psi), with
psi the share of clusters that differ. It is compared with the boundaries of the sign walk of unit steps, and ends early
by the futility rule. For single pairs this equals the exact walk up to the grid of its sums.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np

from experiments.config.keys import StopSpec
from experiments.stats.intervals import normal_quantile
from experiments.stats.sequential import z_boundaries
from experiments.stats.stopping_rule import EARLIEST_FUTILITY

RUNS = 2_000
"""Simulated walks."""


@dataclass(frozen=True)
class Forecast:
    """The expected share of the clusters, the power of the rule, and that of one test of all clusters."""

    share: float
    power: float
    fixed_power: float


@lru_cache(maxsize=256)
def forecast_walk(theta: float, times: tuple[float, ...], family: int, spec: StopSpec, runs: int = RUNS) -> Forecast:
    """The forecast of one comparison, tested at level / family as the first of its family is.

    Args:
        theta: effect x sqrt(C / psi).
        times: The shares of the clusters at the looks, the last of them 1.
        family: The number of comparisons.
        spec: The rule.
        runs: The number of simulated walks.
    """
    from scipy.special import ndtr

    level, t = spec.level / family, np.array(times)
    draw = np.random.default_rng(0)
    steps = np.sqrt(np.diff(t, prepend=0.0))
    z = np.cumsum(draw.normal(size=(runs, len(t))) * steps, axis=1) / np.sqrt(t) + theta * np.sqrt(t)
    decided = np.abs(z) >= np.array(z_boundaries(times, level, spec.spend))
    critical = normal_quantile(1 - level / 2)
    futile = np.zeros_like(decided)
    if spec.futility is not None and spec.margin is None:
        open_ = (t >= EARLIEST_FUTILITY) & (t < 1)
        at = t[open_]
        spread = np.sqrt((1 - at) / at)
        chances = sum(ndtr((sign * np.abs(z[:, open_]) / np.sqrt(at) - critical) / spread) for sign in (1, -1))
        futile[:, open_] = chances < spec.futility
    ended = decided | futile
    ended[:, -1] = True
    first = ended.argmax(axis=1)
    power = float(np.mean(decided[np.arange(runs), first]))
    fixed = float(ndtr(theta - critical) + ndtr(-theta - critical))
    return Forecast(float(t[first].mean()), power, fixed)


def drift(effect: float, clusters: int, discordance: float) -> float:
    """theta of an effect on so many clusters, of which a share `discordance` differs."""
    return effect * sqrt(clusters / discordance)
