"""What `icl plan` says about comparisons that end when they are decided: the expected share of clusters, and the power.

The standardized sum of the clusters so far is simulated as a random walk with drift theta = effect sqrt(C / psi), with
psi the share of clusters that differ. It is compared with the boundaries of the sign walk of unit steps, and ends early
by the futility rule. For single pairs this equals the exact walk up to the grid of its sums.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np

from experiments.config.keys import StopSpec
from experiments.grid.grid import Grid
from experiments.stats.formatting import format_count, format_share
from experiments.stats.intervals import normal_quantile
from experiments.stats.power import DISCORDANCE, smallest_detectable_difference
from experiments.stats.sequential import z_boundaries
from experiments.stats.stopping_rule import EARLIEST_FUTILITY
from experiments.stopping.plan import StopPlan, make_stop_plan

ASSUMED = "one in five differs (assumed)"
EFFECTS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Differences in accuracy. The forecast is for the smallest of them that all queries would detect."""


@dataclass(frozen=True)
class Pilot:
    """What an earlier run says about a plan. It changes the forecast only.

    Attributes:
        name: The run.
        discordance: Task -> the share of clusters whose scores differ between an arm and its reference.
    """

    name: str
    discordance: Mapping[str, float]


def stop_lines(grid: Grid, pilot: Pilot | None = None) -> Iterator[str]:
    """The plan of the looks, and the expected share of the queries. Nothing without `stop`."""
    plan = make_stop_plan(grid)
    if plan is None:
        return
    looks = "; ".join(_looks(plan, task) for task in plan.clusters)
    chance = f"at most {100 * plan.spec.level:g} % chance of a false verdict whenever you stop"
    yield f"{format_count(plan.family, 'comparison')}, {looks} in random order, {chance}"
    if plan.looks == 1:
        yield f"{plan.metric} of {plan.family} comparisons needs the whole run"
        return
    for task in plan.clusters:
        yield f"{f'{task}: ' if len(plan.clusters) > 1 else ''}{_forecast(plan, task, pilot)}"


def _looks(plan: StopPlan, task: str) -> str:
    clusters = plan.clusters[task]
    unit = "query" if max(map(len, clusters.values())) == 1 else "group"
    units = {"query": "queries", "group": "groups"}[unit]
    first = plan.sizes[task][0]
    each = f"each {first}" if first > 1 else "each"
    return f"a look after {each} of {len(clusters):,} {units}"


def _forecast(plan: StopPlan, task: str, pilot: Pilot | None) -> str:
    measured = pilot.discordance.get(task) if pilot else None
    discordance = max(measured, 1 / len(plan.clusters[task])) if measured is not None else DISCORDANCE
    differing = f"{discordance:.0%} differ (as in {pilot.name})" if pilot and measured is not None else ASSUMED
    clusters, times = len(plan.clusters[task]), plan.design(task).times
    detectable = smallest_detectable_difference(clusters, min(1.0, discordance))
    effect = next((e for e in EFFECTS if e >= detectable), EFFECTS[-1])
    none, some = (
        forecast_walk(drift(one, clusters, discordance), times, plan.family, plan.spec) for one in (0.0, effect)
    )
    return (
        f"expected share of queries if {differing.replace('%', ' %')}: no difference {format_share(none.share, 2)}; "
        f"{100 * effect:.0f} points {format_share(some.share, 2)}, found with {format_share(some.power, 2)} "
        f"(all queries: {format_share(some.fixed_power, 2)})"
    )


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
