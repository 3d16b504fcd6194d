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
from experiments.stats import DISCORDANCE, format_count, format_share, normal_quantile, smallest_detectable_difference
from experiments.stopping.plan import StopPlan, make_stop_plan
from experiments.stopping.rule import EARLIEST_FUTILITY
from experiments.stopping.sequential import predictive_power, z_boundaries
from icl import scipy

EFFECTS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Differences in accuracy. The forecast is for the smallest of them that all queries would detect."""
RUNS = 2_000
"""Simulated walks."""


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
    chance = f"at most {100 * plan.stop.level:g} % chance of a false verdict whenever you stop"
    yield f"{format_count(plan.family, 'comparison')}, {looks} in random order, {chance}"
    if plan.looks == 1:
        yield f"{plan.metric} of {plan.family} comparisons needs the whole run"
        return
    for task in plan.clusters:
        yield f"{f'{task}: ' if len(plan.clusters) > 1 else ''}{_forecast(plan, task, pilot)}"


def _looks(plan: StopPlan, task: str) -> str:
    clusters, first = plan.clusters[task], plan.sizes[task][0]
    units = "groups" if plan.has_groups(task) else "queries"
    return f"a look after each {f'{first} ' if first > 1 else ''}of {len(clusters):,} {units}"


def _forecast(plan: StopPlan, task: str, pilot: Pilot | None) -> str:
    clusters, design = len(plan.clusters[task]), plan.design(task)
    discordance, differing = DISCORDANCE, "one in five differs (assumed)"
    if pilot and task in pilot.discordance:
        discordance = max(pilot.discordance[task], 1 / clusters)
        differing = f"{100 * discordance:.0f} % differ (as in {pilot.name})"
    detectable = smallest_detectable_difference(clusters, min(1.0, discordance))
    effect = next((e for e in EFFECTS if e >= detectable), EFFECTS[-1])
    times = tuple(n / clusters for n in design.sizes)
    none, some = (
        forecast_walk(drift(one, clusters, discordance), times, plan.family, plan.stop) for one in (0.0, effect)
    )
    return (
        f"expected share of queries if {differing}: no difference {format_share(none.share, 2)}; "
        f"{100 * effect:.0f} points {format_share(some.share, 2)}, found with {format_share(some.power, 2)} "
        f"(all queries: {format_share(some.fixed_power, 2)})"
    )


@dataclass(frozen=True)
class Forecast:
    """The expected share of the clusters, the power of the rule, and the power of one test of all clusters."""

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
    level, t = spec.level / family, np.array(times)
    steps = np.random.default_rng(0).normal(size=(runs, len(t))) * np.sqrt(np.diff(t, prepend=0.0))
    z = np.cumsum(steps, axis=1) / np.sqrt(t) + theta * np.sqrt(t)
    decided = np.abs(z) >= np.array(z_boundaries(times, level, spec.spend))
    ended = decided.copy()
    if spec.futility is not None and spec.margin is None:
        open_ = (t >= EARLIEST_FUTILITY) & (t < 1)
        ended[:, open_] |= predictive_power(z[:, open_], t[open_], level) < spec.futility
    ended[:, -1] = True
    first = ended.argmax(axis=1)
    critical = normal_quantile(1 - level / 2)
    fixed = float(scipy.special.ndtr(theta - critical) + scipy.special.ndtr(-theta - critical))
    return Forecast(float(t[first].mean()), float(np.mean(decided[np.arange(runs), first])), fixed)


def drift(effect: float, clusters: int, discordance: float) -> float:
    """theta of an effect on so many clusters, if a share `discordance` of them differs."""
    return effect * sqrt(clusters / discordance)
