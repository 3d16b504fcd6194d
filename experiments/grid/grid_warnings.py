"""Warnings about a grid that need no data: what a config asks for is not what it seems to be.

- A contrast whose branches are all equal to the prompt is one of its own controls.
- Weights that do not sum to one are a hidden temperature.
- A strategy with unfitted parameters changes nothing. Parameters may be fitted on another model or task.
- Some models and answer modes give no top log-probabilities.
- A model has notes of its own, for example that its checkpoint is already quantized.
- A claim or a published number is about an arm or a metric that the grid lacks.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from experiments.grid.feasibility import locate
from experiments.grid.fitted_parameters import mismatch_warnings
from experiments.grid.fitted_vectors import vector_warnings
from experiments.grid.grid import Cell, Grid
from experiments.grid.statement_warnings import statement_warnings
from icl.errors import ICLError, ModelError

if TYPE_CHECKING:
    from icl.models.base import Model

TOLERANCE = 1e-6
"""Of the sum of weights from 0 and 1."""


def grid_warnings(grid: Grid) -> tuple[str, ...]:
    """Sentences with their places in the file, each once. Controls that the grid adds have none."""
    checks = (_branches, _temperatures, _traces, _unfitted, _fitted, _models, statement_warnings)
    return tuple(dict.fromkeys(sentence for check in checks for sentence in check(grid)))


def degenerate_at_shots(cell: Cell, shots: int) -> str | None:
    """What the cell's contrast is equivalent to at this number of shots, in a sentence; None if it is a contrast.

    Also None if the strategy cannot read the made-up prompt. Its samples then fail with the reason.
    """
    from decoding.arms.inspection import probe_prompt
    from decoding.arms.requirements import degenerate_contrast

    try:
        return degenerate_contrast(cell.decoding.strategy, probe_prompt(shots))
    except ICLError:
        return None


def _branches(grid: Grid) -> Iterator[str]:
    for cell, shots in _strategies(grid):
        sentences = {k: sentence for k in shots if (sentence := degenerate_at_shots(cell, k))}
        if sentences:
            at = f"at {', '.join(map(str, sentences))} shots " if len(sentences) < len(shots) else ""
            yield f"{locate(grid, 'decoding', cell)}: {at}{next(iter(sentences.values()))}"


def _temperatures(grid: Grid) -> Iterator[str]:
    from decoding.arms.inspection import constant_strength

    for cell, _ in _strategies(grid):
        strength, label = constant_strength(cell.decoding.strategy), cell.decoding.label
        if strength is None or abs(strength - 1) < TOLERANCE:
            continue
        where = locate(grid, "decoding", cell)
        if strength > 0:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}, which has the effect of a temperature of "
                f"{1 / strength:.3g}. Its control temperature_matched measures this effect."
            )
        else:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}: agreement of its branches "
                f"{'has no effect' if abs(strength) < TOLERANCE else 'counts against a token'}. Compare it with its "
                "control entropy_matched."
            )


def _unfitted(grid: Grid) -> Iterator[str]:
    for cell in grid.cells:
        if not cell.control and cell.decoding.strategy.is_unfitted:
            yield (
                f"{locate(grid, 'decoding', cell)}: '{cell.decoding.label}' has not been fitted and has the "
                "reference's scores. `icl fit FILE` fits its parameters on a dev split; `fitted: FILE` reads them."
            )


def _fitted(grid: Grid) -> Iterator[str]:
    places = {
        id(cell.decoding): locate(grid, "decoding", cell) for cell in grid.cells if cell.decoding.parameter_sources
    }
    yield from mismatch_warnings(grid, places)
    steered = {id(cell.intervene): locate(grid, "intervene", cell) for cell in grid.cells if cell.steering is not None}
    yield from vector_warnings(grid, steered)


def _traces(grid: Grid) -> Iterator[str]:
    if not grid.config.top_logprobs:
        return
    where = grid.config.where("top_logprobs")
    if any(cell.answer_mode == "options" for cell in grid.cells):
        yield f"{where}: options are scored without decoding steps, so cells with answer_mode: options record none."
    for model in grid.models:
        if not model.abilities & {"logits", "strategies"}:
            name = next(cell.labels["model"] for cell in grid.cells if cell.model is model)
            yield f"{where}: model '{name}' gives no logits, so its samples record no steps."


def _models(grid: Grid) -> Iterator[str]:
    for model in grid.models:
        cell = next(cell for cell in grid.cells if cell.model is model)
        for note in model.plan_notes:
            yield f"{locate(grid, 'model', cell)}: model '{cell.labels['model']}': {note}"


def loading_problems(grid: Grid, models: "Iterable[Model]") -> Iterator[str]:
    """A sentence for each model that cannot be loaded on this machine. A plan needs none of them loaded."""
    for model in models:
        cell = next(cell for cell in grid.cells if cell.model is model)
        try:
            model.check_loadable()
        except ModelError as error:
            yield f"{locate(grid, 'model', cell)}: {error}"


def _strategies(grid: Grid) -> Iterator[tuple[Cell, list[int]]]:
    """The first cell of each decoding of the config, and its numbers of shots."""
    by_decoding: dict[str, tuple[Cell, dict[int, None]]] = {}
    for cell in grid.cells:
        if not cell.control and not cell.decoding.strategy.traits.is_control:
            by_decoding.setdefault(cell.decoding.digest, (cell, {}))[1][cell.shots] = None
    yield from ((cell, list(shots)) for cell, shots in by_decoding.values())
