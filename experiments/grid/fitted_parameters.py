"""Compare where parameters or vectors were fitted with where they are used: model, template, task and queries.

A file that `icl fit` writes names the model and the task. Other uses are a warning and no error, because the transfer
of parameters may be the question. Vectors of another model or template are refused, unless they say `transfer`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.grid.axis_labels import short_labels
from experiments.grid.grid import Cell, Grid, short_digest
from icl import PIL, Image, Model, Task, build, describe
from retrievers import component_parts

MAX_LUMINANCE_DIFFERENCE = 8
SIZE_PARAMETERS = ("queries", "pool_size", "items", "whole_groups")
"""Parameters of a task that set its size. A smaller size has a subset of the queries of a larger one."""

SUBSET_PARAMETERS = (*SIZE_PARAMETERS, "split", "pool_split", "pool_fraction", "seed")
"""Parameters that select a part of a task. A dev split is the same task."""


def fitting_origin(model_digest: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """The origin that a file of fitted parameters records. task: its canonical node."""
    return {"task": task, "task_digest": _digest(task, SUBSET_PARAMETERS), "model_digest": model_digest}


def mismatch_warnings(grid: Grid, where: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each file whose origin differs from the cells that read it. where: id of an arm -> its place."""
    for cell in grid.cells:
        for origin in () if cell.control else cell.decoding.parameter_sources:
            at = f"{where[id(cell.decoding)]}: the parameters in {origin.file}"
            yield from (f"{at} {problem}" for problem in origin_problems(origin.on, cell))


def origin_problems(fitted_on: Mapping[str, Any], cell: Cell) -> Iterator[str]:
    """What is wrong with parameters that were fitted on this origin, in a cell. fitted_on: of `fitting_origin`."""
    task = cell.config["task"]
    model, task_node = fitted_on.get("model_digest"), fitted_on.get("task")
    fitted_task = fitted_on.get("task_digest") or (
        _digest(task_node, SUBSET_PARAMETERS) if isinstance(task_node, Mapping) else None
    )
    missing = " and ".join(name for name, value in (("model", model), ("task", fitted_task)) if not value)
    if missing:
        yield (
            f"have no record of the {missing} that they were fitted on: the file is old, or was written by hand. "
            "`icl fit` writes this record."
        )
    if model and model != cell.model.digest:
        yield (
            f"were fitted on another model (digest {str(model)[:8]}, and '{cell.labels['model']}' is "
            f"{cell.model.digest[:8]}). Fit them on this one, unless what carries over is the question."
        )
    if fitted_task and fitted_task != _digest(task, SUBSET_PARAMETERS):
        names = (
            short_labels([task_node, task]) if isinstance(task_node, Mapping) else ["another", str(cell.labels["task"])]
        )
        yield (
            f"were fitted on another task ({names[0]}, and this is {names[1]}). Fit them on a part of this one, unless "
            "what carries over is the question."
        )
    elif _has_same_queries(task_node, task):
        yield (
            f"were fitted on queries that '{cell.labels['task']}' also has, so its scores are too high. Fit on another "
            "split, or another seed of the task."
        )


def fitted_records(cell: Cell) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file, its record) of what a cell reads of `icl fit` and `icl optimize`: parameters, vectors, heads and sets."""
    yield from ((one.file, one.on) for one in (() if cell.control else cell.decoding.parameter_sources))
    if cell.steering is not None and cell.steering.source is not None:
        yield cell.steering.source.path.name, cell.steering.source.record
    yield from ((Path(part.fitted).name, part.fitted_on) for part in fitted_retrievers(cell))


@dataclass(frozen=True)
class TrainingImages:
    """The images of queries that something was fitted on, unedited.

    A copy that was scaled or encoded again has other pixels. Its luminance in 16 x 16 cells differs by at most
    MAX_LUMINANCE_DIFFERENCE of 255 in each cell (JPEG of quality 85 or more, scales from 3/4 to 2).
    """

    by_digest: Mapping[str, "PIL.Image.Image"] = field(default_factory=dict)

    def has(self, image: Image) -> bool:
        """Whether the image, or one with nearly equal pixels, is among them."""
        if image.source_digest in self.by_digest:
            return True
        cells = _luminance_cells(image)
        differences = (PIL.ImageChops.difference(cells, other) for other in self.by_digest.values())
        return any(max(one.tobytes()) <= MAX_LUMINANCE_DIFFERENCE for one in differences)


def _luminance_cells(image: Image) -> "PIL.Image.Image":
    """The mean luminance of 16 x 16 cells of the unedited image."""
    return replace(image, edits=()).open().convert("L").resize((16, 16), PIL.Image.Resampling.BOX)


def training_images(record: Mapping[str, Any], cell: Cell) -> TrainingImages:
    """The images of the queries that a file was fitted on; none if the task says that it has them.

    Raises:
        ICLError: The task of the record cannot be read.
    """
    node = record.get("task")
    if not isinstance(node, Mapping) or _has_same_queries(node, cell.config["task"]):
        return TrainingImages()
    if node.get("name") == cell.config["task"]["name"]:
        # A class of the user's own is named by a path in the folder of its study, and the cell has loaded it.
        node = {key: value for key, value in node.items() if key != "code"} | {"name": type(cell.task)}
    return _task_images(node["name"], json.dumps({**node, "name": ""}, sort_keys=True))


@lru_cache(maxsize=16)
def _task_images(task: str | type[Task], parameters: str) -> TrainingImages:
    queries = build("task", {**json.loads(parameters), "name": task}).queries
    images = (image for query in queries for image in query.images)
    return TrainingImages({image.source_digest: _luminance_cells(image) for image in images})


def _has_same_queries(node: Any, task: Mapping[str, Any]) -> bool:
    """Whether two nodes are of one selection of a task, up to its size."""
    return isinstance(node, Mapping) and _digest(node, SIZE_PARAMETERS) == _digest(task, SIZE_PARAMETERS)


def template_digest(cell: Cell) -> str:
    """Digest of what writes prompts: the composer, and the transforms."""
    return short_digest([describe(cell.composer), [describe(one) for one in cell.transforms]])


def vector_record(cell: Cell, model: Model) -> dict[str, Any]:
    """What a file of vectors records of the cell that it was fitted on."""
    return {
        "model": cell.config["model"],
        "model_digest": model.digest,
        "template": describe(cell.composer),
        "template_digest": template_digest(cell),
        "shots": cell.shots,
        "retriever": cell.config["retriever"],
    }


def vector_problem(cell: Cell) -> str | None:
    """Why the vectors of a cell do not belong to its model or template. None if they do, or may be transferred."""
    method = cell.steering
    if method is None or method.source is None or getattr(method, "transfer", False):
        return None
    return _record_problem(f"the vectors in {method.source.path.name}", method.source.record, cell)


def retriever_problem(cell: Cell) -> str | None:
    """Why a fitted retriever of a cell does not belong to its model, template or task. None if it does."""
    for part in fitted_retrievers(cell):
        what, record = f"the numbers in {Path(part.fitted).name}", part.fitted_on
        if part.transfer:
            continue
        if problem := _record_problem(what, record, cell):
            return problem
        if record.get("task_digest") != _digest(cell.config["task"], SUBSET_PARAMETERS):
            return (
                f"{what} were fitted on the task {_name(record.get('task'))}, and this one is "
                f"{_name(cell.config['task'])}, or has other parameters. Fit them on a training split of this task, or "
                "set transfer: true if what carries over is the question."
            )
    return None


def fitted_retrievers(cell: Cell) -> list[Any]:
    """The retrievers of a cell that were fitted on the feedback of a model, also inside of others."""
    return [part for part in component_parts(cell.retriever) if getattr(part, "fitted_on", None)]


def _record_problem(what: str, record: Mapping[str, Any], cell: Cell) -> str | None:
    if record.get("model_digest") != cell.model.digest:
        return (
            f"{what} are of another model (digest {str(record.get('model_digest'))[:8]}; this one is "
            f"{cell.model.digest[:8]}): {_model_difference(record.get('model'), cell.config['model'])}. Fit them on "
            "this model, or set transfer: true if what carries over is the question."
        )
    if record.get("template_digest") != template_digest(cell):
        return (
            f"{what} were fitted with the composer {_name(record.get('template'))}, and this cell has "
            f"{_name(describe(cell.composer))}, or other transforms or parameters. Fit them with this template, or "
            "set transfer: true if what carries over is the question."
        )
    return None


def vector_warnings(grid: Grid, where: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each file of vectors that was fitted on queries or on a task of its cells' own.

    Args:
        grid: The grid.
        where: id of an intervention -> its place in the file.
    """
    for cell in grid.cells:
        source = None if cell.steering is None else cell.steering.source
        if source is not None:
            at = f"{where.get(id(cell.intervene), grid.config.where('intervene'))}: the vectors in {source.path.name}"
            yield from (f"{at} {problem}" for problem in origin_problems(source.record, cell))


def retriever_warnings(grid: Grid, locate: Callable[[Cell], str]) -> Iterator[str]:
    """A sentence for each fitted retriever whose training queries are among those of its cells, or of another origin.

    Args:
        grid: The grid.
        locate: The place of a cell's retriever in the file.
    """
    for cell in grid.cells:
        for part in fitted_retrievers(cell):
            at, record = f"{locate(cell)}: the numbers in {Path(part.fitted).name}", part.fitted_on
            yield from (f"{at} {problem}" for problem in origin_problems(record, cell))
            if record.get("keeps_order"):
                yield from (f"{at} {problem}" for problem in _prompt_problems(part, cell))


def _prompt_problems(part: Any, cell: Cell) -> Iterator[str]:
    """Why the prompts of a cell are not those that chose a fixed set. part: its retriever, inside the cell's or not."""
    fitted_on, order = part.fitted_on, cell.config["order"]
    is_common = part is getattr(cell.retriever, "common", None)  # ranked last to first, behind similar ones
    if order != {"name": "reversed"} if is_common else not getattr(cell.order, "nested", False):
        yield (
            f"were chosen in the order of the file, and the order '{cell.labels['order']}' writes another prompt. Use "
            f"order: {'reversed' if is_common else 'as_retrieved'}."
        )
    if fitted_on.get("template_digest") != template_digest(cell):
        yield "were chosen with another composer, or other transforms. Search a set with this one (`icl optimize`)."


def _model_difference(fitted_on: Any, used_on: Mapping[str, Any]) -> str:
    """The keys of `model` that differ, with both values."""
    if not isinstance(fitted_on, Mapping):
        return "the file does not name its model"
    keys = [key for key in {**fitted_on, **used_on} if fitted_on.get(key) != used_on.get(key)]
    differences = [f"{key} was {fitted_on.get(key)} and is {used_on.get(key)}" for key in keys]
    return ", ".join(differences) or "its keys are the same, and its weights differ"


def _name(node: Any) -> str:
    return str(node.get("name", "?")) if isinstance(node, Mapping) else "an unknown one"


def _digest(task: Mapping[str, Any], without: tuple[str, ...]) -> str:
    """The digest of a task's node without these parameters, in inner tasks too."""
    return short_digest(_without(task, without))


def _without(node: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    return [_without(item, keys) for item in node] if isinstance(node, list | tuple) else node
