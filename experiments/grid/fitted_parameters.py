"""Fitted parameters held against where they are used: the same model, the same task, and other queries.

A file that `icl fit` writes says which model and task its parameters were found on. Used elsewhere they still are
parameters, so a plan warns and does not refuse: what carries over may be the question.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from decoding.arms.fitting import ParameterSource
from experiments.grid.axis_labels import short_labels
from experiments.grid.grid import Cell, Grid, short_digest

SIZE_PARAMETERS = ("queries", "pool_size", "items", "whole_groups")
"""Parameters of a task that say how much of it is taken: a smaller choice lies within a larger one."""

SUBSET_PARAMETERS = (*SIZE_PARAMETERS, "split", "pool_split", "pool_fraction", "seed")
"""Parameters that say which part of a task is taken: a dev split is the same task."""


def fitting_origin(model_digest: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What a fitted file keeps of where it is from. task: its canonical node."""
    return {"task": task, "task_digest": _digest(task, SUBSET_PARAMETERS), "model_digest": model_digest}


def mismatch_warnings(grid: Grid, where: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each file that does not fit the cells that read it. where: id of a cell's arm -> its place."""
    for cell in grid.cells:
        for origin in () if cell.control else cell.decoding.parameter_sources:
            at = f"{where[id(cell.decoding)]}: the parameters in {origin.file}"
            yield from (f"{at} {problem}" for problem in _problems(origin, cell))


def _problems(origin: ParameterSource, cell: Cell) -> Iterator[str]:
    told, task = origin.on, cell.config["task"]
    model, before = told.get("model_digest"), told.get("task")
    fitted_task = told.get("task_digest") or (
        _digest(before, SUBSET_PARAMETERS) if isinstance(before, Mapping) else None
    )
    unsaid = " and ".join(name for name, value in (("model", model), ("task", fitted_task)) if not value)
    if unsaid:
        yield (
            f"do not say on which {unsaid} they were fitted: the file is older than that record, or by hand. "
            "`icl fit` writes one that says so."
        )
    if model and model != cell.model.digest:
        yield (
            f"were fitted on another model (digest {str(model)[:8]}, and '{cell.labels['model']}' is "
            f"{cell.model.digest[:8]}). Fit them on this one, unless what carries over is the question."
        )
    if fitted_task and fitted_task != _digest(task, SUBSET_PARAMETERS):
        names = short_labels([before, task]) if isinstance(before, Mapping) else ["another", str(cell.labels["task"])]
        yield (
            f"were fitted on another task ({names[0]}, and this is {names[1]}). Fit them on a part of this one, unless "
            "what carries over is the question."
        )
    elif isinstance(before, Mapping) and _digest(before, SIZE_PARAMETERS) == _digest(task, SIZE_PARAMETERS):
        yield (
            f"were fitted on queries that '{cell.labels['task']}' asks too, so its scores are too good. Fit on another "
            "split, or another seed of the task."
        )


def _digest(task: Mapping[str, Any], without: tuple[str, ...]) -> str:
    """Of a task's node without these parameters, in what it is made of too."""
    return short_digest(_without(task, without))


def _without(node: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    return [_without(one, keys) for one in node] if isinstance(node, list | tuple) else node
