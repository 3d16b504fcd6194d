"""The grid: every combination of a config's axes as a cell with built components and a digest.

Combinations that cannot differ become one cell. At 0 shots neither retriever nor orderer matters. An axis such as
`decoding.alpha` does not change an arm without an alpha. An axis that no component reads is an error.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from experiments.config.config import Config
from experiments.config.keys import AXES, COMPONENT_KINDS, DEFAULT_LAUNCHER, DEMONSTRATION_AXES, NO_INTERVENTION
from experiments.grid.axis_labels import short_labels
from experiments.grid.axis_product import PlacedNode, axis_combinations
from experiments.grid.matching import check_comparable, matches_all
from icl.errors import ConfigError, ModelError
from icl.registry import build, component_search_folder, describe
from icl.streams import DRAWS
from icl.text.json_text import canonical_digest
from icl.text.reasoning_blocks import max_output_tokens
from icl.untrusted import untrusted
from retrievers.base import declared

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.base import SteeringMethod
    from decoding.engine.requests import AnswerMode
    from experiments.launch.base import Launcher
    from experiments.observers.base import Observer
    from icl.models.base import Model
    from icl.tasks.base import Task
    from prompts.base import Composer, Orderer, Transform
    from retrievers.base import Reranker, Retriever

CELL_COLUMNS = ("seed", *AXES)
"""The columns that describe a cell, in the order of tables."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One combination of axis values under one seed.

    Attributes:
        retriever: Wrapped in the rerankers of the axis `rerankers`, if any. `axis_value` separates the two.
        config: The canonical JSON of all axes.
        digest: Identifies the cell in the store.
        control: Whether the grid added the cell only as a control of others.
        controls: Digests of the decodings that the cell is a control of.
        labels: Axis -> short name, as tables show it.
        stop_strings: Texts that end a generated answer.
        max_thinking_tokens: Length limit of a reasoning block. None if it counts as answer.
        intervene: Edits the states of the model.
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
    stop_strings: tuple[str, ...] = ()
    max_thinking_tokens: int | None = None
    intervene: "SteeringMethod | None" = None

    @property
    def max_output_tokens(self) -> int:
        """Length limit of reasoning and answer together."""
        return max_output_tokens(self.max_new_tokens, self.max_thinking_tokens)

    @property
    def steering(self) -> "SteeringMethod | None":
        """The intervention, or None if it changes nothing."""
        return None if self.intervene is None or self.intervene.neutral else self.intervene

    def axis_value(self, axis: str) -> Any:
        """The component or number that the config names on this axis."""
        retriever: Any = self.retriever
        return retriever.of if axis == "retriever" and self.rerankers else getattr(self, axis)

    @property
    def num_demos(self) -> int:
        """Demonstrations of each prompt: the shots, unless the decoding is a control that shows more."""
        return self.shots * self.decoding.strategy.traits.demonstration_factor


@dataclass(frozen=True)
class Grid:
    """All cells of a config, each once, in the order of the file. warnings: what may be a mistake in the file."""

    config: Config
    cells: tuple[Cell, ...]
    metrics: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    launcher: "Launcher" = field(default_factory=lambda: build("launcher", DEFAULT_LAUNCHER))
    observers: "tuple[Observer, ...]" = ()

    def check_surroundings(self) -> None:
        """Raises ConfigError or PlanError if the launcher or an observer cannot work from here."""
        self.launcher.check()
        for i, observer in enumerate(self.observers):
            try:
                observer.check()
            except ConfigError as error:
                raise ConfigError(f"{self.config.where('observe', i)}: {error}") from error

    @property
    def tasks(self) -> "list[Task]":
        return _distinct(cell.task for cell in self.cells)

    @property
    def models(self) -> "list[Model]":
        return _distinct(cell.model for cell in self.cells)


def expand(config: Config) -> Grid:
    """Every cell of a config. Builds components and reads no data.

    Raises:
        ConfigError: A component is wrong, or it needs trust and the run directory of the config is not trusted.
    """
    with component_search_folder(config.document.folder), untrusted(config.document.untrusted_run):
        factory = _CellFactory(config.stop_strings, _sets_token_limit(config))
        cells: dict[str, Cell] = {}
        control_owners: dict[str, dict[str, None]] = {}  # digest of a control's cell -> digests of its arms
        num_excluded = [0] * len(config.exclude)
        for point in axis_combinations(config):
            add_controls = config.controls == "default"
            is_run = False
            excluded = []  # (intervention, seed) of the point's own arm, which comes first: it needs no controls there
            for (arm, is_control), method, seed in itertools.product(
                factory.arms(point, add_controls), factory.interventions(point, add_controls), config.seeds
            ):
                draft = factory.draft(point, arm, is_control, seed, method)
                matching = [i for i, values in enumerate(config.exclude) if matches_all(values, draft)]
                for i in matching:
                    num_excluded[i] += 1
                if matching and not is_control:
                    excluded.append((method, seed))
                if matching or (method, seed) in excluded:
                    continue
                cell = factory.finish(draft, point["model"][1])
                if not is_control or cell.digest not in cells:  # an arm of the file is not a control
                    cells[cell.digest] = cell
                is_run = is_run or not is_control
                if is_control:
                    owner: Arm = factory.component("decoding", point["decoding"])
                    control_owners.setdefault(cell.digest, {})[owner.digest] = None
            for other, seed in itertools.product(
                factory.label_controls(point) if add_controls and is_run else (), config.seeds
            ):
                draft = factory.draft(
                    other,
                    factory.component("decoding", other["decoding"]),
                    True,
                    seed,
                    factory.component("intervene", other["intervene"]),
                )
                if not any(matches_all(values, draft) for values in config.exclude):
                    cell = factory.finish(draft, point["model"][1])
                    cells.setdefault(cell.digest, cell)
        metrics = _metrics(config)
        launcher: Launcher = build("launcher", config.launcher, config.where("launcher"))
        observers: tuple[Observer, ...] = tuple(
            build("observer", node, config.where("observe", i)) for i, node in enumerate(config.observe)
        )
    if not cells:
        raise ConfigError(f"{config.where('exclude')}: no cell is left in the grid.")
    warnings = [f"{config.where('exclude', i)}: matches no cell." for i, count in enumerate(num_excluded) if not count]
    retriever_warnings = dict.fromkeys(declared(cell.retriever, "warning") for cell in cells.values())
    warnings += [f"{config.where('retriever')}: {warning}" for warning in retriever_warnings if warning]
    task_warnings = dict.fromkeys(getattr(cell.task, "warning", "") for cell in cells.values())
    warnings += [f"{config.where('task')}: {warning}" for warning in task_warnings if warning]
    if launcher_warning := getattr(launcher, "warning", ""):
        warnings.append(f"{config.where('launcher')}: {launcher_warning}")
    with_owners = [replace(cell, controls=tuple(control_owners.get(digest, ()))) for digest, cell in cells.items()]
    grid = Grid(config, _labeled(with_owners), metrics, tuple(warnings), launcher, observers)
    check_comparable(grid)
    return grid


class _CellFactory:
    """A builder of cells. Equal nodes of the file become one object, so each task reads its data once.

    Each cache holds one kind of object. Keys contain ids only of objects that another cache keeps alive.
    """

    def __init__(self, stop_strings: tuple[str, ...], sets_token_limit: bool) -> None:
        self.stop_strings, self.sets_token_limit = stop_strings, sets_token_limit
        self.components: dict[tuple[str, str], Any] = {}
        """(axis, node) -> component."""
        self.lists: dict[tuple[str, str], tuple[Any, ...]] = {}
        """(axis, list of nodes) -> its components."""
        self.reranked: dict[tuple[int, int, int | None], Retriever] = {}
        """(retriever, rerankers, number of candidates) -> the retriever with its rerankers."""
        self.arm_lists: dict[tuple[int, bool, bool], list[tuple[Arm, bool]]] = {}
        """(arm, options are scored, there are shots) -> the arm and its controls."""
        self.controls: dict[tuple[str, str], Arm] = {}
        """(label, digest) -> control, which several arms may have in common."""
        self.model_digests: dict[int, str] = {}
        """model -> digest; reading a checkpoint's digest is slow."""
        self.intervention_lists: dict[int, tuple[SteeringMethod, ...]] = {}
        """id of an intervention -> it and its controls."""
        self.descriptions: dict[tuple[str, int], Any] = {}
        """(axis, component) -> its canonical JSON."""

    def component(self, axis: str, placed_node: PlacedNode) -> Any:
        """The component of a node on an axis with one component."""
        from decoding.arms.arm import parse_arm

        node, where = placed_node
        key = axis, _node_key(node)
        if key not in self.components:
            self.components[key] = (
                parse_arm(node, where) if axis == "decoding" else build(COMPONENT_KINDS[axis], node, where)
            )
        return self.components[key]

    def component_list(self, axis: str, placed_node: PlacedNode) -> tuple[Any, ...]:
        """The components of a list of nodes."""
        nodes, where = placed_node
        key = axis, _node_key(nodes)
        if key not in self.lists:
            self.lists[key] = tuple(self.component(axis, (node, f"{where}[{i}]")) for i, node in enumerate(nodes))
        return self.lists[key]

    def arms(self, point: Mapping[str, PlacedNode], add_controls: bool) -> "list[tuple[Arm, bool]]":
        """(arm, is it a control) of a point: the point's own arm, and its controls if the config adds them."""
        from decoding.arms.arm import default_controls

        arm = self.component("decoding", point["decoding"])
        options, has_shots = point["answer_mode"][0] == "options", point["shots"][0] > 0
        key = id(arm), options, has_shots
        if key not in self.arm_lists:
            try:
                controls = default_controls(arm, options=options, shots=int(has_shots)) if add_controls else ()
            except ConfigError as error:
                raise ConfigError(f"{point['decoding'][1]}: controls: default cannot be built: {error}") from error
            shared = [self.controls.setdefault((control.label, control.digest), control) for control in controls]
            self.arm_lists[key] = [(arm, False), *((control, True) for control in shared)]
        return self.arm_lists[key]

    def interventions(self, point: Mapping[str, PlacedNode], add_controls: bool) -> "tuple[SteeringMethod, ...]":
        """The intervention of a point, and its controls if the config adds them. They are arms like any other."""
        method = self.component("intervene", point["intervene"])
        if id(method) not in self.intervention_lists:
            self.intervention_lists[id(method)] = (method, *(method.controls() if add_controls else ()))
        own, *controls = self.intervention_lists[id(method)]
        return (own, *(control for control in controls if control.min_shots <= point["shots"][0]))

    def label_controls(self, point: Mapping[str, PlacedNode]) -> list[Mapping[str, PlacedNode]]:
        """The control arms that use the labeled items of a fitted intervention without the intervention.

        They are as many demonstrations as items, or as the pool and the context have, and with option scoring the
        constant bias that was fitted on the same items.
        """
        method, where = self.component("intervene", point["intervene"]), point["intervene"][1]
        if not method.labelled_items:
            return []
        nodes: list[dict[str, Any]] = [{"name": "more_demonstrations", "factor": method.labelled_items}]
        if point["answer_mode"][0] == "options" and method.option_biases:
            nodes.append({"name": "constant_bias", "biases": list(method.option_biases)})
        plain = {**point, "intervene": (NO_INTERVENTION, where)}
        return [
            {**plain, "decoding": (node, where), **({"shots": (1, where)} if "factor" in node else {})}
            for node in nodes
        ]

    def draft(
        self, point: Mapping[str, PlacedNode], arm: "Arm", is_control: bool, seed: int, intervene: "SteeringMethod"
    ) -> Cell:
        """The cell of a point, still without its canonical JSON and digest."""
        rerankers, candidates = self.component_list("rerankers", point["rerankers"]), point["rerank_candidates"][0]
        task: Task = self.component("task", point["task"])
        task_limit = None if self.sets_token_limit else getattr(task, "max_new_tokens", None)
        return Cell(
            task=task,
            model=self.component("model", point["model"]),
            shots=point["shots"][0],
            retriever=self._with_rerankers(self.component("retriever", point["retriever"]), rerankers, candidates),
            order=self.component("order", point["order"]),
            transforms=self.component_list("transforms", point["transforms"]),
            composer=self.component("composer", point["composer"]),
            decoding=arm,
            answer_mode=point["answer_mode"][0],
            max_new_tokens=task_limit or point["max_new_tokens"][0],
            seed=seed,
            config={},
            digest="",
            control=is_control,
            rerankers=rerankers,
            rerank_candidates=candidates,
            stop_strings=self.stop_strings if point["answer_mode"][0] == "generate" else (),
            max_thinking_tokens=point["max_thinking_tokens"][0] if point["answer_mode"][0] == "generate" else None,
            intervene=intervene,
        )

    def finish(self, cell: Cell, model_place: str) -> Cell:
        """The cell without what cannot matter to it, with its canonical JSON and digest.

        Args:
            cell: A draft.
            model_place: The place of the model in the file, for the error of an incomplete checkpoint.
        """
        if cell.shots == 0:
            no_demonstrations: dict[str, Any] = dict.fromkeys(DEMONSTRATION_AXES)
            cell = replace(cell, **no_demonstrations)
        if not cell.rerankers:
            cell = replace(cell, rerank_candidates=None)
        config = {"seed": cell.seed, **{axis: self._describe(axis, cell.axis_value(axis)) for axis in AXES}}
        if cell.stop_strings:
            config["stop_strings"] = list(cell.stop_strings)
        if id(cell.model) not in self.model_digests:
            self.model_digests[id(cell.model)] = _model_digest(cell.model, model_place)
        model = {"name": config["model"]["name"], "digest": self.model_digests[id(cell.model)]}
        identity = {**config, "model": model, "draws": DRAWS}
        for axis in ("rerankers", "rerank_candidates"):  # digests of cells without rerankers do not contain these axes
            if not identity[axis]:
                del identity[axis]
        for axis in ("max_thinking_tokens", "intervene"):
            if identity[axis] is None:
                del identity[axis]
        if cell.steering is not None and cell.steering.revision > 1:
            identity["intervene_revision"] = cell.steering.revision
        return replace(cell, config=config, digest=short_digest(identity))

    def _with_rerankers(
        self, retriever: "Retriever", rerankers: "tuple[Reranker, ...]", candidates: int | None
    ) -> "Retriever":
        from retrievers.machinery.reranked import Reranked

        if not rerankers:
            return retriever
        key = id(retriever), id(rerankers), candidates
        if key not in self.reranked:
            more: dict[str, Any] = {} if candidates is None else {"candidates": candidates}
            reranked: Any = Reranked(of=retriever, rerankers=rerankers, **more)
            self.reranked[key] = reranked
        return self.reranked[key]

    def _describe(self, axis: str, value: Any) -> Any:
        if axis not in COMPONENT_KINDS or value is None:
            return value
        key = axis, id(value)
        if key not in self.descriptions:
            self.descriptions[key] = value.config if axis in ("decoding", "intervene") else describe(value)
        return self.descriptions[key]


def _sets_token_limit(config: Config) -> bool:
    """Whether the file has `max_new_tokens`. If not, a task may have a default of its own."""
    return "max_new_tokens" in {*config.document.data, *config.grid, *config.zip}


def _node_key(node: Any) -> str:
    """Text that differs between nodes that differ. Two classes that one function makes have the same name."""

    def text(thing: Any) -> str:
        return f"{thing!r} of {id(thing if isinstance(thing, type) else type(thing))}"

    return json.dumps(node, sort_keys=True, default=text)


def short_digest(value: Any) -> str:
    """16 hex digits of the sha256 of canonical JSON."""
    return canonical_digest(value, ascii_only=False, compact=True, default=repr)[:16]


def _model_digest(model: "Model", where: str) -> str:
    """The model's digest. Raises ModelError with the model's line if its checkpoint is incomplete."""
    try:
        return model.digest
    except ModelError as error:
        raise ModelError(f"{where.rpartition(': ')[0]}: {error}") from error


def _metrics(config: Config) -> dict[str, Any]:
    metrics = {}
    for i, node in enumerate(config.metrics):
        metric = build("metric", node, config.where("metrics", i))
        name = short_labels([describe(metric)], [getattr(metric, "label", None)])[0]
        if name in metrics:
            raise ConfigError(f"{config.where('metrics', i)}: the metric '{name}' is listed twice.")
        metrics[name] = metric
    return metrics


def _labeled(cells: list[Cell]) -> tuple[Cell, ...]:
    columns: dict[str, list[Any]] = {"seed": [cell.seed for cell in cells]}
    for axis in AXES:
        nodes = [_label_node(axis, cell) for cell in cells]
        is_number = axis in ("shots", "max_new_tokens")
        columns[axis] = nodes if is_number else short_labels(nodes, [_title(axis, cell) for cell in cells])
    return tuple(
        replace(cell, labels={axis: columns[axis][i] for axis in CELL_COLUMNS}) for i, cell in enumerate(cells)
    )


def _label_node(axis: str, cell: Cell) -> Any:
    """The node that labels are made of. Interventions are named by the path of their file, not by its contents, and by
    the part of the output that they act in, which a config has only if it is not the default.
    """
    node = cell.config[axis]
    if axis != "intervene" or node is None:
        return node
    assert cell.intervene is not None
    return {**describe(cell.intervene), "acts_in": cell.intervene.acts_in}


def _title(axis: str, cell: Cell) -> str | None:
    if axis == "task":
        return cell.task.title
    return cell.decoding.label if axis == "decoding" else None


def _distinct(items: Iterator[Any]) -> list[Any]:
    return list({id(item): item for item in items}.values())
