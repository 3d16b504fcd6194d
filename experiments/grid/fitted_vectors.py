"""Compare where vectors of an intervention were fitted with where they are used: model, template, task, queries."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.grid.fitted_parameters import origin_problems
from experiments.grid.grid import Cell, Grid, short_digest
from icl.registry import describe

if TYPE_CHECKING:
    from icl.models.base import Model


def template_digest(cell: Cell) -> str:
    """Digest of what writes prompts: the composer, and the transforms."""
    return short_digest([describe(cell.composer), [describe(one) for one in cell.transforms]])


def vector_record(cell: Cell, model: "Model") -> dict[str, Any]:
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
    record, path = method.source.record, method.source.path.name
    if record.get("model_digest") != cell.model.digest:
        return (
            f"the vectors in {path} are of another model (digest {str(record.get('model_digest'))[:8]}; this one is "
            f"{cell.model.digest[:8]}): {_model_difference(record.get('model'), cell.config['model'])}. Fit them on "
            "this model, or set transfer: true if what carries over is the question."
        )
    if record.get("template_digest") != template_digest(cell):
        return (
            f"the vectors in {path} were fitted with the composer {_name(record.get('template'))}, and this cell has "
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


def _model_difference(fitted_on: Any, used_on: Mapping[str, Any]) -> str:
    """The keys of `model` that differ, with both values."""
    if not isinstance(fitted_on, Mapping):
        return "the file does not name its model"
    keys = [key for key in {**fitted_on, **used_on} if fitted_on.get(key) != used_on.get(key)]
    differences = [f"{key} was {fitted_on.get(key)} and is {used_on.get(key)}" for key in keys]
    return ", ".join(differences) or "its keys are the same, and its weights differ"


def _name(node: Any) -> str:
    return str(node.get("name", "?")) if isinstance(node, Mapping) else "an unknown one"
