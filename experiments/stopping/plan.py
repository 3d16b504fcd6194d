"""What a family of comparisons fixes at its first look: clusters and their order, looks, level, metric and pairs.

It is the file `looks/family-<n>/plan.json` of the run directory. A config that changes any of it is refused, since the
level is spent on this plan. Arms that leave the grid stay in the family. New comparisons are a further family with its
own level.

A grid plans the comparison of every arm with its reference, once, as `experiments.stats.compare` pairs them. Two arms
are not tested if their answers cannot differ, and equivalent pairs of arms are one comparison. Both are known before
there are answers, so neither counts in the family.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import sqrt
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, MinLen

from experiments.config.keys import (
    DEFAULT_CORRECTION,
    DEFAULT_REFERENCES,
    DEMONSTRATION_AXES,
    StopSpec,
    match_label,
    primary_metric,
)
from experiments.grid.grid import Cell, Grid
from experiments.stats import (
    DISCORDANCE,
    NO_VALUE,
    Arm,
    describe_arm,
    format_count,
    format_share,
    normal_quantile,
    reference_of,
    smallest_detectable_difference,
)
from experiments.stopping.rule import (
    DEFAULT_LOOKS,
    EARLIEST_FUTILITY,
    LOOKS_OF_SEVERAL_MODELS,
    MAX_RUN_LEVEL_FAMILY,
    LookDesign,
)
from experiments.stopping.sequential import look_sizes, predictive_power, z_boundaries
from experiments.store import Digest, Shape, describe_metrics, equivalence_digest
from icl import ConfigError, Example, StreamKey, scipy

REMEDY = "Run the same command again: it makes the file again from the config and the samples."


@dataclass(frozen=True)
class PlannedComparison:
    """An arm and its reference in one task.

    Attributes:
        task: The label of the task.
        arm: The digests of the arm's cells, by seed.
        reference: The digests of the reference's cells, by seed.
        name: The arm in words.
        against: The reference in words.
        cells: The digests of all cells that are computed while it runs: its own, and the cells of equivalent pairs.
        axes: The labels of the arm by axis.
    """

    task: str
    arm: tuple[Digest, ...]
    reference: tuple[Digest, ...]
    name: str
    against: str
    cells: tuple[Digest, ...] = ()
    axes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Digest, ...]:
        """The digests of both arms."""
        return *self.arm, *self.reference

    @property
    def digest(self) -> str:
        """Digest of the two arms, by which a look names the comparison."""
        return hashlib.sha256(repr((self.arm, self.reference)).encode()).hexdigest()[:16]


class StopPlan(Shape):
    """A family of comparisons before its first look: the shape of plan.json.

    Attributes:
        stop: The rule.
        looks: The number of looks.
        metric: The name of the metric that decides.
        metric_node: Its canonical node.
        seeds: The number of seeds.
        comparisons: The family.
        untested: The cells without a comparison, by task. They are computed as long as any comparison of the task runs.
        clusters: Task -> (cluster id, its queries), in the order of the looks.
    """

    stop: StopSpec
    looks: Annotated[int, Ge(1)]
    metric: str
    metric_node: dict[str, Any]
    seeds: Annotated[int, Ge(1)]
    comparisons: tuple[PlannedComparison, ...]
    untested: dict[str, tuple[Digest, ...]]
    clusters: dict[str, tuple[Annotated[tuple[str, ...], MinLen(2)], ...]]

    @property
    def family(self) -> int:
        """The number m of comparisons."""
        return len(self.comparisons)

    @property
    def is_run_level(self) -> bool:
        return bool(self.metric_node.get("run_level"))

    @cached_property
    def sizes(self) -> dict[str, list[int]]:
        """Task -> numbers of clusters at the looks."""
        return {task: look_sizes(len(clusters), self.looks) for task, clusters in self.clusters.items()}

    @cached_property
    def num_looks(self) -> int:
        """The number of the last look: fewer than `looks` if every task has fewer clusters."""
        return max(map(len, self.sizes.values()))

    def num_clusters(self, task: str, look: int) -> int:
        """The number of clusters of a task at a look; 0 before the first."""
        return 0 if look < 1 else self.sizes[task][min(look, len(self.sizes[task])) - 1]

    def queries(self, task: str, clusters: int) -> set[str]:
        """The queries of the first clusters of a task."""
        return {query for _, *queries in self.clusters[task][:clusters] for query in queries}

    def has_groups(self, task: str) -> bool:
        """Whether a cluster of the task has several queries."""
        return any(len(cluster) > 2 for cluster in self.clusters[task])

    def design(self, task: str) -> LookDesign:
        group = max(map(len, self.clusters[task])) - 1
        return LookDesign(
            len(self.clusters[task]), self.looks, bool(self.metric_node.get("accuracy")), self.seeds, group
        )


def make_stop_plan(grid: Grid) -> StopPlan | None:
    """The plan of a grid's comparisons, or None without `stop`. Raises ConfigError if there is nothing to compare."""
    spec = grid.config.stop
    if spec is None:
        return None
    if grid.config.compare and grid.config.compare.correction != DEFAULT_CORRECTION:
        where = grid.config.where("compare", "correction")
        raise ConfigError(f"{where}: comparisons with `stop` are always corrected over their family. Remove this key.")
    comparisons = planned_comparisons(grid)
    nodes = describe_metrics(grid)
    metric = str(grid.config.compare.metric if grid.config.compare else primary_metric({}, tuple(nodes)))
    node = {**nodes[metric], "accuracy": bool(getattr(grid.metrics[metric], "accuracy", False))}
    needs_whole_run = "run_level" in node and len(comparisons) > MAX_RUN_LEVEL_FAMILY
    looks = spec.looks or (LOOKS_OF_SEVERAL_MODELS if len(grid.models) > 1 else DEFAULT_LOOKS)
    tested = {digest for one in comparisons for digest in one.cells}
    untested: dict[str, tuple[str, ...]] = {}
    for cell in grid.cells:
        if cell.digest not in tested:
            task = str(cell.labels["task"])
            untested[task] = *untested.get(task, ()), cell.digest
    tasks = {str(cell.labels["task"]): cell.task for cell in grid.cells}
    return StopPlan(
        stop=spec,
        looks=1 if needs_whole_run else looks,
        metric=metric,
        metric_node=node,
        comparisons=tuple(comparisons),
        untested=untested,
        clusters={name: order_clusters(task.queries, spec.seed) for name, task in tasks.items()},
        seeds=len(grid.config.seeds),
    )


def order_clusters(queries: Sequence[Example], seed: int) -> tuple[tuple[str, ...], ...]:
    """(cluster id, its queries), in the order of a hash of the seed and the id: no other cluster changes its place.

    A cluster is a group of queries, or else a query.
    """
    members: dict[str, list[str]] = {}
    for query in queries:
        name = f"query {query.id}" if query.group is None else f"group {query.group}"
        members.setdefault(name, []).append(query.id)
    names = list(members)
    return tuple((names[i], *members[names[i]]) for i in StreamKey(seed).order("stop", names))


def planned_comparisons(grid: Grid) -> list[PlannedComparison]:
    """The distinct tested comparisons of a grid, in the order of its arms.

    Raises:
        ConfigError: No arm has a reference, or two arms have different seeds.
    """
    arms: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
    for cell in grid.cells:
        arms.setdefault(tuple((a, v) for a, v in cell.labels.items() if a != "seed"), []).append(cell)
    for cells in arms.values():
        cells.sort(key=lambda cell: cell.seed)
    settings: list[Arm] = [dict(key) for key in arms]
    values = _axis_values(settings)
    to = _reference_setting(grid, values)
    varying = [axis for axis, own in values.items() if axis != "task" and len(own) > 1]
    planned: dict[Any, PlannedComparison] = {}
    for arm, cells in zip(settings, arms.values(), strict=True):
        reference = reference_of(arm, to, settings)
        if reference is None:
            continue
        theirs = arms[tuple(reference.items())]
        name, against = (describe_arm(one, [a for a in varying if a in one]) for one in (arm, reference))
        if [cell.seed for cell in cells] != [cell.seed for cell in theirs]:
            raise ConfigError(f"{grid.config.where('stop')}: {name} and {against} have different seeds. Pair them.")
        sides = tuple(tuple(map(_equivalence, side)) for side in (theirs, cells))
        if sides[0] == sides[1]:
            continue
        own, other = (tuple(cell.digest for cell in side) for side in (cells, theirs))
        one = PlannedComparison(str(arm["task"]), own, other, name, against, axes=arm)
        earlier = planned.get(sides, one)
        planned[sides] = replace(earlier, cells=tuple(dict.fromkeys([*earlier.cells, *one.sides])))
    if not planned:
        raise ConfigError(
            f"{grid.config.where('stop')}: there is no comparison that could be decided. Set compare, such as "
            "{to: {decoding: greedy}}, and an axis with other values."
        )
    return list(planned.values())


def _axis_values(settings: Sequence[Arm]) -> dict[str, list[Any]]:
    """The values of each axis. 'none' of an axis that has no effect at 0 shots is not one of them."""
    values: dict[str, list[Any]] = {}
    for axis in settings[0]:
        free = axis in DEMONSTRATION_AXES
        own = dict.fromkeys(arm[axis] for arm in settings if not (free and arm["shots"] == 0))
        values[axis] = list(own) or [NO_VALUE]
    return values


def _reference_setting(grid: Grid, values: Mapping[str, Sequence[Any]]) -> Arm:
    """The setting of the references, in labels: the setting of `compare`, else the usual one of reports."""
    if grid.config.compare is None:
        decodings, retrievers = values["decoding"], values["retriever"]
        if len(decodings) > 1:
            usual = DEFAULT_REFERENCES["decoding"]
            return {"decoding": usual if usual in decodings else decodings[0]}
        usual = DEFAULT_REFERENCES["retriever"]
        return {"retriever": usual} if len(retrievers) > 1 and usual in retrievers else {"shots": 0}
    to: Arm = {}
    for axis, value in grid.config.compare.to.items():
        by_text = {str(label): label for label in values[axis]}
        where = grid.config.where("compare", "to", axis)
        to[axis] = values[axis][0] if len(by_text) == 1 else by_text[match_label(value, list(by_text), axis, where)]
    return to


def _equivalence(cell: Cell) -> tuple[int, str]:
    """What decides the cell's answers: its seed and the digest of the rest, or its own digest if that is not known."""
    return cell.seed, equivalence_digest({**cell.config, "model_digest": cell.model.digest}) or cell.digest


# What `icl plan` says about comparisons that end when they are decided: the expected share of clusters, and the power.
#
# The standardized sum of the clusters so far is simulated as a random walk with drift theta = effect sqrt(C / psi),
# with psi the share of clusters that differ. It is compared with the boundaries of the sign walk of unit steps, and
# ends early by the futility rule. For single pairs this equals the exact walk up to the grid of its sums.


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
def forecast_walk(theta: float, times: tuple[float, ...], family: int, spec: StopSpec) -> Forecast:
    """The forecast of one comparison, tested at level / family as the first of its family is.

    Args:
        theta: effect x sqrt(C / psi).
        times: The shares of the clusters at the looks, the last of them 1.
        family: The number of comparisons.
        spec: The rule.
    """
    level, t = spec.level / family, np.array(times)
    steps = np.random.default_rng(0).normal(size=(RUNS, len(t))) * np.sqrt(np.diff(t, prepend=0.0))
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
    return Forecast(float(t[first].mean()), float(np.mean(decided[np.arange(RUNS), first])), fixed)


def drift(effect: float, clusters: int, discordance: float) -> float:
    """theta of an effect on so many clusters, if a share `discordance` of them differs."""
    return effect * sqrt(clusters / discordance)
