"""Train the adapter of an experiment file, and its controls, and the config that compares them with the base model.

The base model, the adapter and the controls answer the same prompts, so their arms differ by the adapter alone.
Controls are trained on the same queries in the same order:

    zero_shot    without demonstrations: what the items teach, not the demonstrations
    shuffled     the demonstrations exchange their answers: what their format teaches, not their mapping
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from decoding.interventions.trainable import TrainableMethod
from experiments.config import NO_INTERVENTION, Config, Document, TuneSpec, TuningControl, parse_config, primary_metric
from experiments.grid import Cell, expand, fitting_origin, vector_record
from experiments.store.lock import write_lock
from experiments.tuning.checkpoint import TrainingFolder, replacement
from experiments.tuning.episodes import (
    Episodes,
    EpisodeStream,
    MakeAlternatives,
    MixedStream,
    NearestImage,
    no_alternatives,
    without_image,
    wrong_answer,
)
from experiments.tuning.train import ReportProgress, TrainingOutcome, train
from experiments.tuning.trained_parts import VECTOR_FILE
from icl import ConfigError, Example, PlanError, Task, build, canonical_digest, class_name, entries, resolve
from icl.models.hf.model import HF
from icl.tasks import check_no_shared_image, image_digests
from retrievers import Retriever

TUNED = "tuned"
PROMPT_AXES = ("model", "retriever", "rerankers", "rerank_candidates", "order", "transforms", "composer")
"""Axes of the file that decide a training prompt, besides the task and the number of shots."""
RECORD = "tune.json"
VECTORS = "vectors"
"""The value of `tune.parameters` that trains a value of `intervene`, not an adapter."""


def tune(
    config: Config,
    out: Path,
    controls: Sequence[TuningControl] = (),
    report_progress: ReportProgress = lambda what, done, of: None,
) -> list[TrainingOutcome]:
    """Trains the adapter of a config in `out`/tuned, and each control in a folder of its name.

    Raises:
        ConfigError: The config has no `tune`, or several settings.
        DataError: Training images are test images.
        PlanError: The model cannot be tuned.
        ModelError: A loss is not a number.
        StoreError: Another process trains in a folder, or it cannot be written.
    """
    spec = _spec(config)
    tasks = {name: _training_cells(config, spec, None if name == TUNED else name) for name in (TUNED, *controls)}
    cells = {name: own[0] for name, own in tasks.items()}
    trained = _intervention(config, spec, cells) if spec.parameters == VECTORS else None
    if trained is None and "intervene" in config.document.data["tune"]:
        raise ConfigError(
            f"{config.where('tune', 'intervene')}: the tensors of an intervention train with parameters: vectors only, "
            f"and parameters is {spec.parameters}. Set tune.parameters=vectors, or remove tune.intervene."
        )
    if spec.objective == "distill" and not cells[TUNED].shots:
        raise ConfigError(
            f"{config.where('tune', 'objective')}: the base model reads no demonstrations that distill could teach. "
            "Set tune.shots."
        )
    if spec.relations and not cells[TUNED].shots:
        raise ConfigError(
            f"{config.where('tune', 'relations')}: the episodes have no demonstrations to retrieve. Set tune.shots."
        )
    model = _trainable(config, cells[TUNED])
    tests = [("task", task) for task in expand(evaluation_config(config, ())).tasks]  # raises before any training
    dev_cell = None
    if spec.dev is not None:
        dev_cell = training_cell(config, _alone(spec, spec.dev), None)
        check_disjoint(dev_cell.task, tests, "tune.dev")
        tests.append(("tune.dev", dev_cell.task))
    images = sum(check_disjoint(cell.task, tests) for cell in tasks[TUNED])
    outcomes = []
    with ExitStack() as locks:
        for name in cells:  # before the model loads
            locks.enter_context(write_lock(out / name))
        for name, cell in cells.items():
            method = None if trained is None else trained.config
            tuned = asdict(replace(spec, save_every=1, dev=None, intervene=method))
            several = {"weights", "mix", "transforms"} if len(tasks[name]) == 1 else {"transforms"}
            tuned = {
                key: value for key, value in tuned.items() if key not in several or (len(tasks[name]) > 1 and value)
            }
            settings: dict[str, Any] = {"tune": tuned, "cell": cell.config, "model": model.digest}
            settings |= {"cells": [other.config for other in tasks[name][1:]]} if tasks[name][1:] else {}
            folder = TrainingFolder(out / name, canonical_digest(settings))
            own = replace(model)  # its weights change
            stream = _mixed_stream(config, spec, tasks[name])
            dev = None if dev_cell is None else episode_stream(config, spec, dev_cell)
            outcome = train(
                own,
                spec,
                stream,
                folder,
                dev=dev,
                record=_vector_record(tasks[TUNED], spec, name),
                report_progress=_named(name, report_progress),
            )
            own.unload()
            record = {**settings, "control": None if name == TUNED else name, "images": images, "steps": outcome.steps}
            with replacement(out / name / RECORD) as part:
                part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            outcomes.append(outcome)
    return outcomes


def episode_stream(config: Config, spec: TuneSpec, cell: Cell) -> EpisodeStream:
    """The episodes of a training cell, with what their answers are preferred to. Raises ConfigError."""
    alternatives = ALTERNATIVES[spec.objective](config, spec, cell)
    relations = [_retriever(config, spec, node) for node in spec.relations]
    return EpisodeStream(cell, spec.batch, alternatives, relations, _shots_list(spec))


def _mixed_stream(config: Config, spec: TuneSpec, cells: Sequence[Cell]) -> Episodes:
    """The episodes of all tasks."""
    streams = [episode_stream(config, spec, cell) for cell in cells]
    if len(streams) == 1:
        return streams[0]
    total = spec.steps * spec.batch if spec.mix == "sequential" else None
    return MixedStream(streams, spec.weights or [1.0] * len(streams), spec.seed, total)


def _training_cells(config: Config, spec: TuneSpec, control: str | None) -> list[Cell]:
    """The training cell of each task."""
    more: Sequence[Any] = spec.transforms or [()] * len(spec.tasks)
    return [training_cell(config, _alone(spec, task), control, own) for task, own in zip(spec.tasks, more, strict=True)]


def _alone(spec: TuneSpec, task: Any) -> TuneSpec:
    """The settings with one task."""
    return replace(spec, task=task, weights=(), transforms=())


ALTERNATIVES: Mapping[str, Callable[[Config, TuneSpec, Cell], MakeAlternatives]] = {
    "sft": lambda config, spec, cell: no_alternatives,
    "dpo": lambda config, spec, cell: wrong_answer,
    "distill": lambda config, spec, cell: no_alternatives,
    "cal": lambda config, spec, cell: without_image,
    "cal_permuted": lambda config, spec, cell: without_image,
    "realign": lambda config, spec, cell: NearestImage(cell, _retriever(config, spec, spec.nearest)),
}
"""Value of `tune.objective` -> what the answer of an episode is preferred to."""


def training_cell(config: Config, spec: TuneSpec, control: str | None, more: Sequence[Any] = ()) -> Cell:
    """The one cell whose prompts are the training episodes. Raises ConfigError if the file has several settings.

    more: Transforms after the file's.
    """
    if "model" in config.zip:
        raise ConfigError(
            f"{config.where('zip', 'model')}: icl fit compares the base model with its adapters, so the model cannot "
            "be zipped with other axes. Write one model with the key model."
        )
    grid: dict[str, Any] = {}
    for axes in (config.grid, config.zip):
        for axis, values in axes.items():
            if axis.partition(".")[0] not in PROMPT_AXES:
                continue
            if len(values) > 1:
                raise ConfigError(
                    f"{config.where('grid' if axes is config.grid else 'zip', axis)}: an adapter is trained in one "
                    f"setting, and this axis has {len(values)} values. Choose one: grid.{axis}=[…]"
                )
            grid[axis] = list(values)
    of_file = [config.shots, *config.grid.get("shots", ()), *config.zip.get("shots", ())]
    shots = max(_shots_list(spec) or of_file)
    transforms: list[Any] = [*grid.pop("transforms", [config.transforms])[0], *more]
    if control == TuningControl.SHUFFLED:
        transforms.append({"name": "answers", "how": "permuted"})
    changed = replace(
        _plain(config),
        task=spec.task,
        shots=0 if control == TuningControl.ZERO_SHOT else shots,
        transforms=transforms,
        grid=grid,
        zip={},
        exclude=[],
        decoding="greedy",
        intervene=NO_INTERVENTION,
        answer_mode="generate",
        seeds=(spec.seed,),
    )
    (cell,) = expand(changed).cells
    return cell


def evaluation_config(config: Config, outcomes: Sequence[TrainingOutcome]) -> Config:
    """The study of the file with the base model and each adapter as arms, compared with the base model.

    Trained vectors are values of the axis `intervene`, after the file's values.
    """
    spec, written = _spec(config), config.document.data
    axis = "intervene" if spec.parameters == VECTORS else "model"
    data = {key: value for key, value in written.items() if key not in ("tune", axis)}
    grid = dict(data.get("grid") or {})
    own = grid.pop(axis, None)
    values: list[Any]
    if axis == "intervene":
        values = list(own or [config.intervene])
        reference, node = values[0], _as_mapping(written["tune"].get("intervene", spec.intervene))
        values += [{**node, "fitted": str(one.folder / VECTOR_FILE)} for one in outcomes]
    else:
        node = _as_mapping(config.model if config.model is not None else config.grid["model"][0])
        reference, values = {**node, "adapter": None}, [node, *({**node, "adapter": str(o.folder)} for o in outcomes)]
    data["grid"] = {axis: values, **grid}
    data.setdefault("name", config.name)
    metric = primary_metric({}, list(expand(_plain(config)).metrics))
    data.setdefault("compare", {"to": {axis: reference}, "metric": metric})
    return parse_config(Document(config.document.name, config.document.folder, data))


def _as_mapping(node: Any) -> dict[str, Any]:
    return dict(node) if isinstance(node, Mapping) else {"name": node}


def _intervention(config: Config, spec: TuneSpec, cells: Mapping[str, Cell]) -> Any:
    """The intervention whose tensors train. Raises ConfigError if they cannot."""
    where = config.where("tune", "intervene")
    method = build("intervention", spec.intervene, where)
    name = class_name(type(method))
    if not isinstance(method, TrainableMethod):
        names = [one for one in entries("intervention") if issubclass(resolve("intervention", one), TrainableMethod)]
        raise ConfigError(f"{where}: '{name}' has no tensors that train. Use {', '.join(names)}.")
    if method.control != "none" or method.neutral:
        raise ConfigError(f"{where}: `control` and `strength: 0` leave nothing that trains. Leave them out.")
    if method.acts_in != "both":
        raise ConfigError(
            f"{where}: vectors train without reasoning, where acts_in: {method.acts_in} means nothing. Remove it here, "
            "and set it where the vectors are used."
        )
    if spec.objective not in ("sft", "distill"):
        raise ConfigError(f"{config.where('tune', 'objective')}: vectors train with sft or distill.")
    if "intervene" in config.zip:
        raise ConfigError(
            f"{config.where('zip', 'intervene')}: trained vectors are further values of intervene, so it cannot be "
            "zipped. Use grid.intervene."
        )
    place = next((axes for axes in ("grid", "zip") if "shots" in getattr(config, axes)), None)
    tested = [config.shots] if place is None else getattr(config, place)["shots"]
    if min(tested) < method.min_shots:
        at = config.where(*([] if place is None else [place]), "shots")
        raise ConfigError(
            f"{at}: the study tests '{name}' without demonstrations, of which it is made. Leave shots: 0 out."
        )
    for folder, cell in cells.items():
        if min((cell.shots, *_shots_list(spec))) < method.min_shots:
            problem = "Set tune.shots above 0." if folder == TUNED else f"Leave out --control {folder}."
            raise ConfigError(f"{where}: '{name}' is made of demonstrations, so nothing trains without them. {problem}")
    return method


def _vector_record(cells: Sequence[Cell], spec: TuneSpec, name: str) -> dict[str, Any]:
    """What a file of vectors says about its training. cells: the adapter's cells, also for its controls."""
    cell = cells[0]
    return {
        **fitting_origin(cell.model.digest, cell.config["task"]),
        **vector_record(cell, cell.model),
        "seeds": [cell.seed],
        "sources": [query.id for one in cells for query in one.task.queries],
        "objective": spec.objective,
        "control": None if name == TUNED else name,
    }


def _spec(config: Config) -> TuneSpec:
    if config.tune is None:
        raise ConfigError(
            f"{config.document.name}: the key tune is missing. It has the task and the steps of training."
        )
    return config.tune


def _retriever(config: Config, spec: TuneSpec, node: Any) -> Retriever:
    """The retriever that a key of `tune` names. Raises ConfigError."""
    plain = replace(_plain(config), retriever=node, rerankers=[], grid={}, zip={}, exclude=[], transforms=[])
    (cell,) = expand(replace(plain, model=config.model or config.grid["model"][0], shots=1, seeds=(0,))).cells
    assert cell.retriever is not None
    return cell.retriever


def _plain(config: Config) -> Config:
    """The config without what only a report or a decoding reads."""
    return replace(config, compare=None, claims=(), published=(), stop=None, controls="none", observe=(), by=())


def _shots_list(spec: TuneSpec) -> tuple[int, ...]:
    """The numbers of shots; each episode draws one of them. Empty: the largest number of the file."""
    if spec.shots is None:
        return ()
    return (spec.shots,) if isinstance(spec.shots, int) else spec.shots


def _trainable(config: Config, cell: Cell) -> HF:
    """The model of a cell. Raises PlanError if it has no weights that can be trained here."""
    model, where = cell.model, config.where("model")
    if not isinstance(model, HF):
        raise PlanError(f"{where}: adapters are trained on models of `hf`, not on '{cell.labels['model']}'.")
    if model.adapter is not None:
        raise PlanError(f"{where}: the model has an adapter already. Leave `adapter` out: the base model is tuned.")
    if model.quantize != "none":
        raise PlanError(f"{where}: adapters are trained on weights as stored, not on {model.quantize}.")
    return model


def _named(name: str, report_progress: ReportProgress) -> ReportProgress:
    return lambda what, done, of: report_progress(f"{name}, {what}", done, of)


def check_disjoint(train: Task, tests: Iterable[tuple[str, Task]], name: str = "tune.task") -> int:
    """Checks that no image of a test or dev query is a training image.

    Training images belong to the training queries and to their pools, which appear as demonstrations.

    Args:
        train: The training task.
        tests: Place in the file and task, for each test task and the dev task.
        name: Place of the training task in the file.

    Returns:
        The number of distinct training images.

    Raises:
        DataError: An image is on both sides.
    """
    examples, advice = list(_examples(train)), "Take another split, or another seed of a generated task."
    for where, task in tests:
        check_no_shared_image(examples, task.queries, where, ("queries", name), advice)
    return len(image_digests(*examples))


def _examples(task: Task) -> Iterator[Example]:
    """Queries and members of their pools, each pool once."""
    pools: set[int] = set()
    read_pools = []
    for query in task.queries:
        yield query
        pool = task.pool(query.id)
        if id(pool) not in pools:
            pools.add(id(pool))
            read_pools.append(pool)  # an id belongs to one pool only as long as the pool exists
            yield from pool.examples
