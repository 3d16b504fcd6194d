"""Warnings about a grid that need no model: what a config asks for is not what it seems to be.

- A contrast is one of its own controls if its branches all equal the prompt.
- Weights that do not sum to one are a hidden temperature.
- A strategy with unfitted parameters changes nothing. Parameters may be fitted on another model or task.
- Some models and answer modes give no top log-probabilities.
- A model has notes of its own, for example that its checkpoint is already quantized.
- A chat template changes prompts, or begins answers in its own way.
- A task has notes of its own, for example on rows that it leaves out. They need its data, which are read by then.
- A metric of numbers does not score answers that are none.
- A claim or a published number is about an arm or a metric that the grid lacks. This is no error, because an override
  such as `grid.shots=[0]` may leave out the arms of a claim.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from experiments.config import AXES, BASELINE_KEY, PublishedSpec, match_label, primary_metric
from experiments.grid.feasibility import locate
from experiments.grid.fitted_parameters import mismatch_warnings, retriever_warnings, vector_warnings
from experiments.grid.grid import Cell, Grid
from experiments.grid.template_notes import template_notes
from icl import ConfigError, ICLError, Model, ModelError, did_you_mean
from icl.metrics.machinery.number_answers import gold_number
from icl.tasks.base import task_parts

TOLERANCE = 1e-6
"""Of the sum of weights from 0 and 1."""


def grid_warnings(grid: Grid) -> tuple[str, ...]:
    """Sentences with their places in the file, each once. Controls that the grid adds cause no warnings."""
    of_arms = (_branches, _temperatures, _traces, _unfitted, _fitted)
    checks = (*of_arms, _models, _templates, _data, _numbers, statement_warnings)
    return tuple(dict.fromkeys(sentence for check in checks for sentence in check(grid)))


def degenerate_at_shots(cell: Cell, shots: int) -> str | None:
    """What the cell's contrast is equivalent to at this number of shots, in a sentence; None if it is a contrast.

    Also None if the strategy cannot read the made-up prompt. Its samples then fail with the reason.
    """
    from decoding import degenerate_contrast, probe_prompt

    try:
        return degenerate_contrast(cell.decoding.strategy, probe_prompt(shots))
    except ICLError:
        return None


def _data(grid: Grid) -> Iterator[str]:
    for cell in {id(cell.task): cell for cell in grid.cells}.values():
        for note in (note for part in task_parts(cell.task) for note in getattr(part, "notes", ())):
            yield f"{locate(grid, 'task', cell)}: {note}"


def _numbers(grid: Grid) -> Iterator[str]:
    names = [name for name, metric in grid.metrics.items() if getattr(metric, "reads_numbers", False)]
    for cell in {id(cell.task): cell for cell in grid.cells if names}.values():
        golds = [query.answers for query in cell.task.queries]
        others = [answers for answers in golds if gold_number(answers) is None]
        if others:
            yield (
                f"{locate(grid, 'task', cell)}: {len(others):,} of {len(golds):,} answers are not numbers, such as "
                f"{''.join(others[0][:1])!r:.40}, so these queries have no score of {', '.join(names)}."
            )


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
    yield from retriever_warnings(grid, lambda cell: locate(grid, "retriever", cell))


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


def _templates(grid: Grid) -> Iterator[str]:
    for cell, note in template_notes(grid):
        yield f"{locate(grid, 'model', cell)}: model '{cell.labels['model']}': {note}."


def loading_problems(grid: Grid, models: Iterable[Model]) -> Iterator[str]:
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


LARGEST_SHARE = 1.5
"""A published accuracy, or a difference of two, above it is read as a percentage."""
SAME_WORD = 0.8
"""The similarity from which the name of a column is a misspelled axis."""


def statement_warnings(grid: Grid) -> Iterator[str]:
    """A sentence with its place on each part of a claim or number that the grid lacks."""
    for i, claim in enumerate(grid.config.claims):
        for key in ("arm", "against"):
            yield from _settings(grid, ("claims", i, key), getattr(claim, key))
        for key in ("metric", "tasks_with"):
            yield from _metric(grid, ("claims", i, key), getattr(claim, key))
    for i, number in enumerate(grid.config.published):
        for key in ("at", "minus"):
            yield from _settings(grid, ("published", i, key), getattr(number, key) or {})
        yield from _metric(grid, ("published", i, "metric"), number.metric)
        yield from _percentage(grid, ("published", i, "value"), number)


def _settings(grid: Grid, place: tuple[str | int, ...], setting: Mapping[str, Any]) -> Iterator[str]:
    for axis, value in setting.items():
        where = grid.config.where(*place, axis)
        if axis in AXES:
            labels = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
            try:
                match_label(value, labels, axis, where)
            except ConfigError as error:
                yield str(error)
        elif axis != BASELINE_KEY and (near := get_close_matches(axis, AXES, 1, SAME_WORD)):
            yield f"{where}: no axis '{axis}', so it is read as a column of the data. Did you mean '{near[0]}'?"


def _metric(grid: Grid, place: tuple[str | int, ...], name: str | None) -> Iterator[str]:
    if name is not None and name not in grid.metrics:
        hint, names = did_you_mean(name, grid.metrics), ", ".join(grid.metrics)
        yield f"{grid.config.where(*place)}: no metric '{name}' in metrics.{hint} There are {names}."


def _percentage(grid: Grid, place: tuple[str | int, ...], number: PublishedSpec) -> Iterator[str]:
    compare = grid.config.compare
    name = number.metric or (compare.metric if compare else primary_metric({}, list(grid.metrics)))
    if abs(number.value) > LARGEST_SHARE and getattr(grid.metrics.get(str(name)), "accuracy", False):
        yield (
            f"{grid.config.where(*place)}: '{name}' is a share from 0 to 1, and {number.value:g} is none. "
            f"Write a percentage as {number.value / 100:g}."
        )
