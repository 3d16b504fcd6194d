"""What `icl plan` says about comparisons that end when they are decided."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from experiments.grid.grid import Grid
from experiments.stats.formatting import format_count, format_share
from experiments.stats.power import DISCORDANCE, smallest_detectable_difference
from experiments.stats.stop_forecast import drift, forecast_walk
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
