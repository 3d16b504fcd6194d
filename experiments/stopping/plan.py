"""What a family of comparisons fixes at its first look: clusters and their order, looks, level, metric and pairs.

It is the file `looks/family-<n>/plan.json` of the run directory. A config that changes any of it is refused, since the
level is spent on this plan. Arms that leave the grid stay in the family. New comparisons are a further family with its
own level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from experiments.config.keys import DEFAULT_CORRECTION, StopSpec, primary_metric
from experiments.grid.grid import Grid
from experiments.stats.exchange_looks import MAX_FAMILY
from experiments.stats.sequential import look_sizes
from experiments.stats.stopping_rule import LookDesign, least_differing, number_of_looks
from experiments.stopping.comparisons import PlannedComparison, planned_comparisons
from experiments.store.json_shapes import Digest, Shape, check_shape
from experiments.store.run_state import describe_metrics
from icl.errors import ConfigError
from icl.streams import StreamKey
from icl.types import Example

REMEDY = "Run the same command again: it makes the file again from the config and the samples."


@dataclass(frozen=True)
class StopPlan:
    """A family of comparisons before its first look.

    Attributes:
        spec: The rule.
        looks: The number of looks.
        metric: The name of the metric that decides.
        metric_node: Its canonical node.
        comparisons: The family.
        untested: The cells without a comparison, by task. They are computed as long as any comparison of the task runs.
        clusters: Task -> cluster id -> its queries, in the order of the looks.
        seeds: The number of seeds.
    """

    spec: StopSpec
    looks: int
    metric: str
    metric_node: Mapping[str, Any]
    comparisons: tuple[PlannedComparison, ...]
    untested: Mapping[str, tuple[str, ...]]
    clusters: Mapping[str, Mapping[str, tuple[str, ...]]]
    seeds: int = 1

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

    def queries(self, task: str, look: int) -> list[str]:
        """The queries of the clusters up to a look."""
        ids = list(self.clusters[task])[: self.num_clusters(task, look)]
        return [query for name in ids for query in self.clusters[task][name]]

    def design(self, task: str) -> LookDesign:
        largest = max(map(len, self.clusters[task].values()))
        return LookDesign(
            planned=len(self.clusters[task]),
            looks=self.looks,
            whole=bool(self.metric_node.get("accuracy")),
            largest=largest * self.seeds,
            least_differing=least_differing(self.seeds, largest),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "stop": asdict(self.spec),
            "looks": self.looks,
            "metric": self.metric,
            "metric_node": dict(self.metric_node),
            "seeds": self.seeds,
            "comparisons": [one.to_dict() for one in self.comparisons],
            "untested": {task: list(cells) for task, cells in self.untested.items()},
            "clusters": {
                task: [[name, *queries] for name, queries in clusters.items()]
                for task, clusters in self.clusters.items()
            },
        }

    @staticmethod
    def from_dict(node: Mapping[str, Any], path: Path | str) -> "StopPlan":
        """The plan of a file. Raises DamagedFileError."""
        own = check_shape(_PlanShape, node, path, REMEDY)
        clusters = {
            task: {name: tuple(queries) for name, *queries in clusters} for task, clusters in own.clusters.items()
        }
        return StopPlan(
            own.stop, own.looks, own.metric, own.metric_node, own.comparisons, own.untested, clusters, own.seeds
        )


class _PlanShape(Shape):
    """The shape of plan.json."""

    stop: StopSpec
    looks: Annotated[int, Ge(1)]
    metric: str
    metric_node: dict[str, Any]
    seeds: Annotated[int, Ge(1)]
    comparisons: tuple[PlannedComparison, ...]
    untested: dict[str, tuple[Digest, ...]]
    clusters: dict[str, list[Annotated[list[str], MinLen(2)]]]


def cluster_name(query: str, group: str | None) -> str:
    """The id of the cluster of a query: its group, or else the query itself."""
    return f"query {query}" if group is None else f"group {group}"


def order_clusters(queries: Sequence[Example], seed: int) -> dict[str, tuple[str, ...]]:
    """cluster id -> its queries, in the order of a hash of the seed and the id: no other cluster changes its place."""
    members: dict[str, list[str]] = {}
    for query in queries:
        members.setdefault(cluster_name(query.id, query.group), []).append(query.id)
    names = list(members)
    return {names[i]: tuple(members[names[i]]) for i in StreamKey(seed).order("stop", names)}


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
    # a run-level metric of a large family needs too many exchange patterns to decide early
    needs_whole_run = "run_level" in node and len(comparisons) > MAX_FAMILY
    tested = {digest for one in comparisons for digest in one.cells}
    untested: dict[str, list[str]] = {}
    for cell in grid.cells:
        if cell.digest not in tested:
            untested.setdefault(str(cell.labels["task"]), []).append(cell.digest)
    tasks = {str(cell.labels["task"]): cell.task for cell in grid.cells}
    return StopPlan(
        spec=spec,
        looks=1 if needs_whole_run else number_of_looks(spec, len(grid.models)),
        metric=metric,
        metric_node=node,
        comparisons=tuple(comparisons),
        untested={task: tuple(cells) for task, cells in untested.items()},
        clusters={task: order_clusters(of.queries, spec.seed) for task, of in tasks.items()},
        seeds=len(grid.config.seeds),
    )
