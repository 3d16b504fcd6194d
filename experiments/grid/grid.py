"""The grid: every combination of a config's axes as a cell with built components and a digest.

Combinations that cannot differ become one cell. At 0 shots neither retriever nor orderer matters. An axis such as
`decoding.alpha` does not change an arm without an alpha. An axis that no component reads is an error.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from decoding import AnswerMode, Arm, SteeringMethod, build_arm, default_controls
from experiments.config import Config, match_label, matches, matches_all
from experiments.config.keys import (
    AXES,
    COMPONENT_KINDS,
    DEFAULT_LAUNCHER,
    DEMONSTRATION_AXES,
    LIST_AXES,
    NO_INTERVENTION,
)
from experiments.grid.axis_labels import short_labels
from icl import (
    DRAWS,
    Component,
    ConfigError,
    ICLError,
    Model,
    ModelError,
    Task,
    build,
    canonical_digest,
    describe,
    did_you_mean,
)
from icl.registry import component_search_folder, parse
from icl.text.reasoning_blocks import max_output_tokens
from icl.untrusted import untrusted
from prompts import Composer, Orderer, Transform
from retrievers import Reranker, Retriever, declared

if TYPE_CHECKING:
    from icl import Launcher, Observer

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

    task: Task
    model: Model
    shots: int
    retriever: Retriever | None
    order: Orderer | None
    transforms: tuple[Transform, ...]
    composer: Composer
    decoding: "Arm"
    answer_mode: AnswerMode
    max_new_tokens: int
    seed: int
    config: Mapping[str, Any]
    digest: str
    control: bool = False
    controls: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    rerankers: tuple[Reranker, ...] | None = ()
    rerank_candidates: int | None = None
    stop_strings: tuple[str, ...] = ()
    max_thinking_tokens: int | None = None
    intervene: SteeringMethod | None = None

    @property
    def max_output_tokens(self) -> int:
        """Length limit of reasoning and answer together."""
        return max_output_tokens(self.max_new_tokens, self.max_thinking_tokens)

    @property
    def part_budget(self) -> int | None:
        """The thinking budget, if the cell generates answers, whose parts are then known."""
        return self.max_thinking_tokens if self.answer_mode == "generate" else None

    @property
    def steering(self) -> SteeringMethod | None:
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

    def set_day(self, day: date) -> None:
        """Let models write prompts as on the day of the run: some chat templates write the date."""
        for model in self.models:
            model.set_day(day)

    @property
    def tasks(self) -> list[Task]:
        return _distinct(cell.task for cell in self.cells)

    @property
    def models(self) -> list[Model]:
        return _distinct(cell.model for cell in self.cells)


def expand(config: Config) -> Grid:
    """Every cell of a config. Builds components and reads no data.

    Raises:
        ConfigError: A component is wrong, or it needs trust and the run directory of the config is not trusted.
    """
    with component_search_folder(config.document.folder), untrusted(config.document.untrusted_run):
        builder = _CellBuilder(config)
        for point in axis_points(config):
            builder.add(point)
        metrics = _metrics(config)
        launcher: Launcher = build("launcher", config.launcher, config.where("launcher"))
        observers: tuple[Observer, ...] = tuple(
            build("observer", node, config.where("observe", i)) for i, node in enumerate(config.observe)
        )
    cells = builder.cells()
    if not cells:
        raise ConfigError(f"{config.where('exclude')}: no cell is left in the grid.")
    warnings = [
        f"{config.where('exclude', i)}: matches no cell." for i, count in enumerate(builder.num_excluded) if not count
    ]
    retriever_warnings = dict.fromkeys(declared(cell.retriever, "warning") for cell in cells)
    warnings += [f"{config.where('retriever')}: {warning}" for warning in retriever_warnings if warning]
    task_warnings = dict.fromkeys(getattr(cell.task, "warning", "") for cell in cells)
    warnings += [f"{config.where('task')}: {warning}" for warning in task_warnings if warning]
    if launcher_warning := getattr(launcher, "warning", ""):
        warnings.append(f"{config.where('launcher')}: {launcher_warning}")
    grid = Grid(config, cells, metrics, tuple(warnings), launcher, observers)
    if config.document.day is not None:
        grid.set_day(config.document.day)
    _check_comparable(grid)
    return grid


def _check_comparable(grid: Grid) -> None:
    """Raises ConfigError if `compare` names a value or a metric that the grid lacks, or several values at once."""
    compare = grid.config.compare
    if compare is None:
        return
    for axis, value in compare.to.items():
        labels = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
        where = grid.config.where("compare", "to", axis)
        if not any(matches(cell.axis_value(axis), axis, value) or cell.labels[axis] == value for cell in grid.cells):
            hint = did_you_mean(str(value), labels)
            raise ConfigError(f"{where}: no cell has {axis} {value!r}.{hint} It has {', '.join(labels)}.")
        if len(labels) > 1:
            match_label(value, labels, axis, where)
    if compare.metric not in grid.metrics:
        where = grid.config.where("compare", "metric")
        hint = did_you_mean(compare.metric, grid.metrics)
        raise ConfigError(
            f"{where}: no metric '{compare.metric}' in metrics.{hint} There are {', '.join(grid.metrics)}."
        )


Point = Mapping[str, Any]
"""Axis -> its value in one combination: a number, or `Component`s that are not built."""


def axis_points(config: Config) -> Sequence[Point]:
    """Every combination of the axes. Each node of the file is parsed once. An axis such as `decoding.alpha` sets the
    alpha of the combination's strategy, if it has one.

    Raises:
        ConfigError: A node names no component, or no component of any combination reads an axis.
    """
    fixed = {
        axis: _parsed(axis, node, config.where(axis))
        for axis, node in config.base.items()
        if axis not in {*config.grid, *config.zip}
    }
    columns, zipped = (
        [
            [(axis, _parsed(axis, node, config.where(key, axis, i))) for i, node in enumerate(nodes)]
            for axis, nodes in axes
        ]
        for key, axes in (("grid", config.grid.items()), ("zip", config.zip.items()))
    )
    rows = [*zip(*zipped, strict=True)] or [()]
    combinations = [(*chosen, *row) for chosen in itertools.product(*columns) for row in rows]
    points: list[dict[str, Any]] = [{**fixed, **dict(values)} for values in combinations]
    read = {axis for point in points for axis in _apply_parameters(point)}
    for key, axes in (("grid", config.grid), ("zip", config.zip)):
        for axis in axes:
            if axis not in read:
                raise ConfigError(f"{config.where(key, axis)}: {_unread(axis, points)}")
    return points


def _parsed(axis: str, node: Any, where: str) -> Any:
    """The value of an axis; with its place, if the axis is a parameter."""
    if axis in LIST_AXES:
        return tuple(parse(COMPONENT_KINDS[axis], one, f"{where}[{i}]") for i, one in enumerate(node))
    if axis in COMPONENT_KINDS:
        is_arm = isinstance(node, Arm)  # Python code may give one
        return Component("strategy", "", Arm, {}, where, node) if is_arm else parse(COMPONENT_KINDS[axis], node, where)
    return (node, where) if "." in axis else node


def _apply_parameters(point: dict[str, Any]) -> list[str]:
    """Sets `decoding.alpha` of the point's strategy, if it has an alpha. Returns the axes that the point reads."""
    read = [axis for axis in point if "." not in axis]
    for axis in [axis for axis in point if "." in axis]:
        value, where = point.pop(axis)
        head, *path = axis.split(".")
        component = point[head]
        arm_keys = ("sampling", "acts_in", "normalize") if head == "decoding" else ()
        takes = isinstance(component, Component) and path[0] in (*component.parameter_names, *arm_keys)
        if takes and component.instance is None and len(path) <= 2:
            point[head] = component.with_parameter(path, value, where)
            read.append(axis)
    return read


def _unread(axis: str, points: Sequence[Point]) -> str:
    """Why no component reads an axis."""
    head, _, parameter = axis.partition(".")
    if head in LIST_AXES:
        return (
            f"{head} is a list, and no axis can set a parameter of its elements. Write each complete list as a value "
            f"of the axis {head}."
        )
    by_name = {point[head].name: point[head] for point in points}
    parameters = list(dict.fromkeys(name for component in by_name.values() for name in component.parameter_names))
    takes = f"which take{'s' * (len(by_name) == 1)} {', '.join(parameters) or 'no parameters'}."
    hint = did_you_mean(parameter, parameters)
    return f"no component reads the axis '{axis}'.{hint} {head} is {', '.join(by_name)}, {takes}"


class _CellBuilder:
    """Builds the cells of points. Equal nodes of the file become one object, so each task reads its data once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.settings: dict[str, dict[str, Any]] = {}
        """Digest of a cell -> its fields."""
        self.owners: dict[str, dict[str, None]] = {}
        """Digest of a control's cell -> digests of its arms."""
        self.num_excluded = [0] * len(config.exclude)
        """Matches of each entry of `exclude`."""
        self.made: dict[tuple[Any, ...], Any] = {}
        """What was made -> it. An id in a key belongs to an object that another value keeps alive."""

    def add(self, point: Point) -> None:
        """Adds the cells of a point under every seed, with their controls if the config adds them."""
        add_controls, seeds = self.config.controls == "default", self.config.seeds
        is_run, excluded = False, []
        # the point's own arm comes first: where it is excluded, it needs no controls
        for (arm, is_control), method, seed in itertools.product(
            self._arms(point, add_controls), self._interventions(point, add_controls), seeds
        ):
            values = self._values(point, arm, method, seed)
            matching = [i for i, hole in enumerate(self.config.exclude) if matches_all(hole, values)]
            for i in matching:
                self.num_excluded[i] += 1
            if matching and not is_control:
                excluded.append((method, seed))
            if matching or (method, seed) in excluded:
                continue
            digest = self._add_cell(values, is_control, point)
            is_run = is_run or not is_control
            if is_control:
                self.owners.setdefault(digest, {})[self._built(point["decoding"]).digest] = None
        added = [(other, True) for other in self._label_controls(point)] if add_controls and is_run else []
        added += [(other, False) for other in self._retriever_controls(point)] if add_controls and is_run else []
        for (other, is_control), seed in itertools.product(added, seeds):
            values = self._values(other, self._built(other["decoding"]), self._built(other["intervene"]), seed)
            if not any(matches_all(hole, values) for hole in self.config.exclude):
                self._add_cell(values, is_control, other)

    def cells(self) -> tuple[Cell, ...]:
        """The cells that were added, in their order, with labels that no two values of an axis have in common."""
        settings = list(self.settings.values())
        columns: dict[str, list[Any]] = {"seed": [values["seed"] for values in settings]}
        for axis in AXES:
            nodes = [_label_node(axis, values) for values in settings]
            is_number = axis in ("shots", "max_new_tokens")
            columns[axis] = nodes if is_number else short_labels(nodes, [_title(axis, values) for values in settings])
        return tuple(
            Cell(
                **values,
                controls=tuple(self.owners.get(values["digest"], ())),
                labels={axis: columns[axis][i] for axis in CELL_COLUMNS},
            )
            for i, values in enumerate(settings)
        )

    def _once(self, make: Callable[[], Any], *key: Any) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def _built(self, component: Component) -> Any:
        """The component of a parsed node: an `Arm` of a strategy."""
        make = partial(build_arm, component) if component.kind == "strategy" else component.build
        return self._once(make, component.kind, component.key)

    def _arms(self, point: Point, add_controls: bool) -> "list[tuple[Arm, bool]]":
        """(arm, is it a control) of a point: the point's own arm, and its controls if the config adds them."""
        arm = self._built(point["decoding"])
        options, has_shots = point["answer_mode"] == "options", point["shots"] > 0

        def with_controls() -> list[tuple[Arm, bool]]:
            try:
                controls = default_controls(arm, options=options, shots=int(has_shots)) if add_controls else ()
            except ConfigError as error:
                where = point["decoding"].where
                raise ConfigError(f"{where}: controls: default cannot be built: {error}") from error
            # arms may have a control in common
            shared = [self.made.setdefault((one.label, one.digest), one) for one in controls]
            return [(arm, False), *((control, True) for control in shared)]

        arms: list[tuple[Arm, bool]] = self._once(with_controls, "arms", id(arm), options, has_shots)
        return arms

    def _interventions(self, point: Point, add_controls: bool) -> tuple[SteeringMethod, ...]:
        """The intervention of a point, and its controls if the config adds them. They are arms like any other."""
        own = self._built(point["intervene"])
        controls = self._once(own.controls, "controls", id(own)) if add_controls else ()
        return (own, *(control for control in controls if control.min_shots <= point["shots"]))

    def _label_controls(self, point: Point) -> list[Point]:
        """The control arms that use the labeled items of a fitted intervention without the intervention.

        They are as many demonstrations as items, or as the pool and the context have, and with option scoring the
        constant bias that was fitted on the same items.
        """
        method, where = self._built(point["intervene"]), point["intervene"].where
        if not method.labelled_items:
            return []
        plain = {**point, "intervene": parse("intervention", NO_INTERVENTION, where)}
        more = {"name": "more_demonstrations", "factor": method.labelled_items}
        points: list[Point] = [{**plain, "decoding": parse("strategy", more, where), "shots": 1}]
        if point["answer_mode"] == "options" and method.option_biases:
            bias = {"name": "constant_bias", "biases": list(method.option_biases)}
            points.append({**plain, "decoding": parse("strategy", bias, where)})
        return points

    def _retriever_controls(self, point: Point) -> list[Point]:
        """The point with each control of its retriever. They are arms like any other."""
        own, where = self._built(point["retriever"]), point["retriever"].where
        if not point["shots"] or not hasattr(own, "controls"):
            return []
        try:
            controls = self._once(own.controls, "controls", id(own))
        except ICLError as error:
            raise type(error)(f"{where}: controls: default cannot be built: {error}") from error
        return [
            {**point, "retriever": Component("retriever", "", type(control), {}, where, control)}
            for control in controls
        ]

    def _values(self, point: Point, arm: "Arm", method: SteeringMethod, seed: int) -> dict[str, Any]:
        """Axis -> the component or number of a cell, with its seed."""
        values = {
            axis: tuple(map(self._built, value)) if axis in LIST_AXES else self._built(value)
            for axis, value in point.items()
            if axis in COMPONENT_KINDS and axis not in ("decoding", "intervene")
        }
        task_limit = None if self._sets_token_limit else getattr(values["task"], "max_new_tokens", None)
        limit = task_limit or point["max_new_tokens"]
        return {
            **point,
            **values,
            "decoding": arm,
            "intervene": method,
            "max_new_tokens": limit,
            "seed": seed,
        }

    @property
    def _sets_token_limit(self) -> bool:
        """Whether the file has `max_new_tokens`. If not, a task may have a default of its own."""
        return "max_new_tokens" in {*self.config.document.data, *self.config.grid, *self.config.zip}

    def _add_cell(self, values: Mapping[str, Any], is_control: bool, point: Point) -> str:
        """Adds the cell of these values without what cannot matter to it. Returns its digest."""
        unused = DEMONSTRATION_AXES if values["shots"] == 0 else () if values["rerankers"] else ("rerank_candidates",)
        values = {**values, **dict.fromkeys(unused)}
        config = {"seed": values["seed"], **{axis: self._describe(axis, values[axis]) for axis in AXES}}
        stop_strings = self.config.stop_strings if values["answer_mode"] == "generate" else ()
        if stop_strings:
            config["stop_strings"] = list(stop_strings)
        model = values["model"]
        model_digest = self._once(partial(_model_digest, model, point["model"].where), "digest", id(model))
        identity = {**config, "model": {"name": config["model"]["name"], "digest": model_digest}, "draws": DRAWS}
        for axis in ("rerankers", "rerank_candidates"):  # digests of cells without rerankers do not contain these axes
            if not identity[axis]:
                del identity[axis]
        for axis in ("max_thinking_tokens", "intervene"):
            if identity[axis] is None:
                del identity[axis]
        method = values["intervene"]
        if not method.neutral and method.revision > 1:
            identity["intervene_revision"] = method.revision
        if (judge := values["decoding"].traits.judge_model) is not None:
            identity["judge"] = self._once(partial(_model_digest, judge, point["decoding"].where), "digest", id(judge))
        digest = short_digest(identity)
        if not is_control or digest not in self.settings:  # an arm of the file is not a control
            own = {"config": config, "digest": digest, "control": is_control, "stop_strings": stop_strings}
            self.settings[digest] = {**values, **own, "retriever": self._with_rerankers(values)}
        return digest

    def _with_rerankers(self, values: Mapping[str, Any]) -> Any:
        from retrievers.machinery.reranked import Reranked

        retriever, rerankers, candidates = values["retriever"], values["rerankers"], values["rerank_candidates"]
        if not rerankers:
            return retriever
        more = {} if candidates is None else {"candidates": candidates}
        make = partial(Reranked, of=retriever, rerankers=rerankers, **more)
        return self._once(make, "reranked", id(retriever), *map(id, rerankers), candidates)

    def _describe(self, axis: str, value: Any) -> Any:
        """The canonical JSON of a value."""
        if axis not in COMPONENT_KINDS or value is None:
            return value
        if axis in LIST_AXES:
            return [self._once(partial(describe, one), "json", id(one)) for one in value]
        if axis in ("decoding", "intervene"):
            return value.config
        return self._once(partial(describe, value), "json", id(value))


def short_digest(value: Any) -> str:
    """16 hex digits of the sha256 of canonical JSON."""
    return canonical_digest(value, ascii_only=False, compact=True, default=repr)[:16]


def _model_digest(model: Model, where: str) -> str:
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


def _label_node(axis: str, values: Mapping[str, Any]) -> Any:
    """The node that labels are made of. Interventions are named by the path of their file, not by its contents, and by
    the part of the output that they act in, which a config has only if it is not the default.
    """
    node = values["config"][axis]
    if axis != "intervene" or node is None:
        return node
    return {**describe(values["intervene"]), "acts_in": values["intervene"].acts_in}


def _title(axis: str, values: Mapping[str, Any]) -> str | None:
    return {"task": values["task"].title, "decoding": values["decoding"].label}.get(axis)


def _distinct(items: Iterator[Any]) -> list[Any]:
    return list({id(item): item for item in items}.values())
