"""From a config to cells: every combination of the axes, as built components with a digest of what they are.

Two combinations that cannot differ are one cell: at 0 shots neither retriever nor orderer matters, and an axis such as
`decoding.alpha` leaves an arm without an alpha alone. An axis that no component reads at all is an error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from experiments.config.config import Config
from experiments.config.keys import AXES, COMPONENT_KINDS, DEFAULT_LAUNCHER, DEMONSTRATION_AXES
from experiments.grid.axis_labels import short_labels
from experiments.grid.axis_product import PlacedNode, axis_combinations
from experiments.grid.matching import check_comparable, matches_all
from icl.canonical_json import canonical_digest
from icl.errors import ConfigError, ModelError
from icl.registry import build, component_search_folder, describe

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.engine.requests import AnswerMode
    from experiments.launch.base import Launcher
    from icl.models.base import Model
    from icl.tasks.base import Task
    from prompts.base import Composer, Orderer, Transform
    from retrievers.base import Reranker, Retriever

CELL_COLUMNS = ("seed", *AXES)
"""The columns that describe a cell, in the order of tables."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One resolved combination. config: its canonical JSON; labels: axis -> short name, as tables show it.

    retriever: with the rerankers of the axis `rerankers` on it, where there are any; `axis_value` has both apart.
    control: whether it is here for others' sake alone. controls: digests of the decodings that it is a control of.
    """

    task: "Task"
    model: "Model"
    shots: int
    retriever: "Retriever | None"
    order: "Orderer | None"
    transforms: "tuple[Transform, ...]"
    composer: "Composer"
    decoding: "Arm"
    answer_mode: "AnswerMode"
    max_new_tokens: int
    seed: int
    config: Mapping[str, Any]
    digest: str
    control: bool = False
    controls: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    rerankers: "tuple[Reranker, ...] | None" = ()
    rerank_candidates: int | None = None

    def axis_value(self, axis: str) -> Any:
        """The component or number that the config names on this axis."""
        named: Any = self.retriever
        return named.of if axis == "retriever" and self.rerankers else getattr(self, axis)

    @property
    def num_demos(self) -> int:
        """How many its prompts show: its shots, unless its decoding is a control that shows more."""
        return self.shots * self.decoding.strategy.traits.demonstration_factor


@dataclass(frozen=True)
class Grid:
    """cells: each once, in the order of the file. warnings: what looks like a mistake and is none."""

    config: Config
    cells: tuple[Cell, ...]
    metrics: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    launcher: "Launcher" = field(default_factory=lambda: build("launcher", DEFAULT_LAUNCHER))

    @property
    def tasks(self) -> "list[Task]":
        return _distinct(cell.task for cell in self.cells)

    @property
    def models(self) -> "list[Model]":
        return _distinct(cell.model for cell in self.cells)


def expand(config: Config) -> Grid:
    """Every cell of a config. Builds components and reads no data. Raises ConfigError."""
    with component_search_folder(config.document.folder):
        factory = _Factory()
        cells: dict[str, Cell] = {}
        owners: dict[str, dict[str, None]] = {}
        holes = [0] * len(config.exclude)
        for point in axis_combinations(config):
            for arm, control in factory.arms(point, config.controls):
                for seed in config.seeds:
                    cell = factory.cell(point, arm, control, seed)
                    excluded = [i for i, hole in enumerate(config.exclude) if matches_all(hole, cell)]
                    for i in excluded:
                        holes[i] += 1
                    if not excluded:
                        settled = factory.settled(cell, point["model"][1])
                        if not control or settled.digest not in cells:  # an arm of the file is no control
                            cells[settled.digest] = settled
                        if control:
                            owner: Arm = factory.component("decoding", point["decoding"])
                            owners.setdefault(settled.digest, {})[owner.digest] = None
        metrics = _metrics(config)
        launcher: Launcher = build("launcher", config.launcher, config.where("launcher"))
    warnings = tuple(f"{config.where('exclude', i)}: matches no cell." for i, count in enumerate(holes) if count == 0)
    told = dict.fromkeys(getattr(cell.retriever, "warning", "") for cell in cells.values())
    warnings += tuple(f"{config.where('retriever')}: {warning}" for warning in told if warning)
    if not cells:
        raise ConfigError(f"{config.where('exclude')}: nothing is left of the grid.")
    found = [replace(cell, controls=tuple(owners.get(digest, ()))) for digest, cell in cells.items()]
    grid = Grid(config, _labeled(found), metrics, warnings, launcher)
    check_comparable(grid)
    return grid


class _Factory:
    """Builds each distinct node once, so that equal components are one object and a task reads its data once."""

    def __init__(self) -> None:
        self.built: dict[str, Any] = {}

    def component(self, key: str, node: PlacedNode) -> Any:
        told, where = node
        place = f"{key}:{json.dumps(told, sort_keys=True, default=repr)}"
        if place not in self.built:
            self.built[place] = (
                self._arm(told, where) if key == "decoding" else build(COMPONENT_KINDS[key], told, where)
            )
        return self.built[place]

    def arms(self, point: Mapping[str, PlacedNode], controls: bool) -> "list[tuple[Arm, bool]]":
        """The arm of a point, and its controls where the config adds them: (arm, is a control)."""
        from decoding.arms.arm import default_controls

        arm = self.component("decoding", point["decoding"])
        options, shots = point["answer_mode"][0] == "options", min(point["shots"][0], 1)
        place = f"arms:{id(arm)}:{options}:{shots}"
        if place not in self.built:
            added = default_controls(arm, options=options, shots=shots) if controls else ()
            self.built[place] = [(arm, False), *((self._one(control), True) for control in added)]
        return cast("list[tuple[Arm, bool]]", self.built[place])

    def _one(self, control: "Arm") -> "Arm":
        """The same object for equal controls of several arms."""
        found: Arm = self.built.setdefault(f"control:{control.label}:{control.digest}", control)
        return found

    def cell(self, point: Mapping[str, PlacedNode], arm: "Arm", control: bool, seed: int) -> Cell:
        rerankers, candidates = self.several("rerankers", point["rerankers"]), point["rerank_candidates"][0]
        return Cell(
            self.component("task", point["task"]),
            self.component("model", point["model"]),
            point["shots"][0],
            self._reranked(self.component("retriever", point["retriever"]), rerankers, candidates),
            self.component("order", point["order"]),
            self.several("transforms", point["transforms"]),
            self.component("composer", point["composer"]),
            arm,
            point["answer_mode"][0],
            point["max_new_tokens"][0],
            seed,
            {},
            "",
            control,
            rerankers=rerankers,
            rerank_candidates=candidates,
        )

    def several(self, key: str, node: PlacedNode) -> tuple[Any, ...]:
        """The components of a list: one tuple for equal lists."""
        told, where = node
        place = f"{key}[]:{json.dumps(told, sort_keys=True, default=repr)}"
        if place not in self.built:
            self.built[place] = tuple(self.component(key, (one, f"{where}[{i}]")) for i, one in enumerate(told))
        found: tuple[Any, ...] = self.built[place]
        return found

    def _reranked(
        self, retriever: "Retriever", rerankers: "tuple[Reranker, ...]", candidates: int | None
    ) -> "Retriever":
        """One object for the same rerankers on the same retriever, so that its demonstrations are shared."""
        from retrievers.reranked import Reranked

        place = f"reranked:{id(retriever)}:{[id(one) for one in rerankers]}:{candidates}"
        if place not in self.built:
            wide: dict[str, Any] = {} if candidates is None else {"candidates": candidates}
            self.built[place] = Reranked(of=retriever, rerank=rerankers, **wide) if rerankers else retriever
        found: Retriever = self.built[place]
        return found

    def settled(self, cell: Cell, where: str) -> Cell:
        """Without what cannot matter, and with the digest of what does. where: the model's place in the file."""
        if cell.shots == 0:
            free: dict[str, Any] = dict.fromkeys(DEMONSTRATION_AXES)
            cell = replace(cell, **free)
        if not cell.rerankers:
            cell = replace(cell, rerank_candidates=None)
        told = {"seed": cell.seed, **{axis: self._told(axis, cell.axis_value(axis)) for axis in AXES}}
        place = f"digest:{id(cell.model)}"
        if place not in self.built:
            self.built[place] = _digest(cell.model, where)
        identity = {**told, "model": {"name": told["model"]["name"], "digest": self.built[place]}}
        for axis in ("rerankers", "rerank_candidates"):  # cells from before there was this axis keep their digest
            if not identity[axis]:
                del identity[axis]
        return replace(cell, config=told, digest=short_digest(identity))

    def _told(self, axis: str, value: Any) -> Any:
        place = f"told:{axis}:{id(value)}"
        if axis not in COMPONENT_KINDS or value is None:
            return value
        if place not in self.built:
            self.built[place] = value.describe() if axis == "decoding" else describe(value)
        return self.built[place]

    @staticmethod
    def _arm(node: Any, where: str) -> "Arm":
        from decoding.arms.arm import parse_arm

        return parse_arm(node, where)


def short_digest(told: Any) -> str:
    """16 hex digits of the sha256 of canonical JSON."""
    return canonical_digest(told, ascii_only=False, compact=True, default=repr)[:16]


def _digest(model: "Model", where: str) -> str:
    """The model's digest. A checkpoint that is not whole says so here, with its line."""
    try:
        return model.digest
    except ModelError as error:
        raise ModelError(f"{where.rpartition(': ')[0]}: {error}") from error


def _metrics(config: Config) -> dict[str, Any]:
    found = {}
    for i, node in enumerate(config.metrics):
        metric = build("metric", node, config.where("metrics", i))
        name = short_labels([describe(metric)])[0]
        if name in found:
            raise ConfigError(f"{config.where('metrics', i)}: the metric '{name}' stands there twice.")
        found[name] = metric
    return found


def _labeled(cells: list[Cell]) -> tuple[Cell, ...]:
    columns: dict[str, list[Any]] = {"seed": [cell.seed for cell in cells]}
    for axis in AXES:
        nodes = [cell.config[axis] for cell in cells]
        kept = axis in ("shots", "max_new_tokens")
        columns[axis] = nodes if kept else short_labels(nodes, [_title(axis, cell) for cell in cells])
    return tuple(
        replace(cell, labels={axis: columns[axis][i] for axis in CELL_COLUMNS}) for i, cell in enumerate(cells)
    )


def _title(axis: str, cell: Cell) -> str | None:
    if axis == "task":
        return cell.task.title
    return cell.decoding.label if axis == "decoding" else None


def _distinct(things: Iterator[Any]) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())
