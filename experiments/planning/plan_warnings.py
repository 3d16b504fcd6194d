"""What a config asks for that is something else than it seems: known from its strategies, before any data.

A contrast whose branches are all the prompt itself is one of its own controls; weights that do not sum to one are a
hidden temperature; what learns and has not been fitted changes nothing, and what was fitted elsewhere is said so; steps
that a model or a score cannot give are not kept; a checkpoint that comes quantized is no full precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from experiments.grid.feasibility import locate
from experiments.grid.fitted_parameters import mismatch_warnings
from experiments.grid.grid import Cell, Grid
from icl.errors import ICLError

if TYPE_CHECKING:
    from decoding.base import Strategy
    from icl.types import Prompt

SAME = 1e-6


def plan_warnings(grid: Grid) -> tuple[str, ...]:
    """Sentences with the line of what they are about, each once; none about the controls that the grid adds."""
    every = (_branches, _temperatures, _traces, _unfitted, _fitted, _models)
    return tuple(dict.fromkeys(sentence for told in every for sentence in told(grid)))


@dataclass
class IdenticalBranches:
    """Of each strategy of the config with several branches, how many prompts were read and in how many they differ."""

    read: dict[str, int] = field(default_factory=dict)
    differ: dict[str, int] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    shots: dict[str, set[int]] = field(default_factory=dict)

    def see(self, cell: Cell, branches: "Sequence[Prompt]") -> None:
        if len(branches) > 1 and not (cell.control or cell.decoding.strategy.traits.is_control):
            label = str(cell.labels["decoding"])
            self.cells[label] = cell
            self.shots.setdefault(label, set()).add(cell.shots)
            self.read[label] = self.read.get(label, 0) + 1
            self.differ[label] = self.differ.get(label, 0) + (len({branch.digest for branch in branches}) > 1)

    def notes(self) -> list[str]:
        """A sentence for each that contrasts nothing on these data, though it would on others."""
        return [
            _equal(label, self.cells[label].decoding.strategy, self.read[label])
            for label, count in self.differ.items()
            if count == 0 and not all(_become(self.cells[label], shots) for shots in self.shots[label])
        ]


def _become(cell: Cell, shots: int) -> str | None:
    """`decoding.arms.requirements.become` on a made-up prompt.

    Nothing where a strategy cannot read it, as its samples will say.
    """
    from decoding.arms.inspection import probe_prompt
    from decoding.arms.requirements import degenerate_contrast

    try:
        return degenerate_contrast(cell.decoding.strategy, probe_prompt(shots))
    except ICLError:
        return None


def _branches(grid: Grid) -> Iterator[str]:
    for cell, shots in _strategies(grid):
        told = {k: sentence for k in shots if (sentence := _become(cell, k))}
        if told:
            at = f"at {', '.join(map(str, told))} shots " if len(told) < len(shots) else ""
            yield f"{locate(grid, 'decoding', cell)}: {at}{next(iter(told.values()))}"


def _temperatures(grid: Grid) -> Iterator[str]:
    from decoding.arms.inspection import constant_strength

    for cell, _ in _strategies(grid):
        strength, label = constant_strength(cell.decoding.strategy), cell.decoding.label
        if strength is None or abs(strength - 1) < SAME:
            continue
        where = locate(grid, "decoding", cell)
        if strength > 0:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}, which alone is a temperature of "
                f"{1 / strength:.3g}. Its control temperature_matched says what that does."
            )
        else:
            yield (
                f"{where}: the weights of '{label}' sum to {strength:.3g}: what its branches agree on counts "
                f"{'nothing' if abs(strength) < SAME else 'against a token'}. Its control entropy_matched is the one "
                "to look at."
            )


def _unfitted(grid: Grid) -> Iterator[str]:
    for cell in grid.cells:
        if not cell.control and cell.decoding.strategy.is_unfitted:
            yield (
                f"{locate(grid, 'decoding', cell)}: '{cell.decoding.label}' has not been fitted and scores as the "
                "reference does. `icl fit FILE` writes what it learns on a dev split; `fitted: FILE` reads it."
            )


def _fitted(grid: Grid) -> Iterator[str]:
    read = {id(cell.decoding): locate(grid, "decoding", cell) for cell in grid.cells if cell.decoding.parameter_sources}
    yield from mismatch_warnings(grid, read)


def _traces(grid: Grid) -> Iterator[str]:
    if not grid.config.top_logprobs:
        return
    where = grid.config.where("top_logprobs")
    if any(cell.answer_mode == "options" for cell in grid.cells):
        yield f"{where}: options are scored in no steps, so cells with answer_mode: options keep none."
    for model in grid.models:
        if not model.abilities & {"logits", "strategies"}:
            name = next(cell.labels["model"] for cell in grid.cells if cell.model is model)
            yield f"{where}: model '{name}' only answers, so its samples keep no steps."


def _models(grid: Grid) -> Iterator[str]:
    for model in grid.models:
        cell = next(cell for cell in grid.cells if cell.model is model)
        for note in model.plan_notes:
            yield f"{locate(grid, 'model', cell)}: model '{cell.labels['model']}': {note}"


def _strategies(grid: Grid) -> Iterator[tuple[Cell, list[int]]]:
    """The first cell of each decoding of the config, and the numbers of shots that it is run with."""
    found: dict[str, tuple[Cell, dict[int, None]]] = {}
    for cell in grid.cells:
        if not cell.control and not cell.decoding.strategy.traits.is_control:
            found.setdefault(cell.decoding.digest, (cell, {}))[1][cell.shots] = None
    yield from ((cell, list(shots)) for cell, shots in found.values())


def _equal(label: str, strategy: "Strategy", prompts: int) -> str:
    """The sentence for branches that are equal in all prompts that were read, though not by construction."""
    from decoding.arms.inspection import constant_strength

    strength = constant_strength(strategy)
    control = "mask_only" if strength is None or abs(strength - 1) < SAME else "temperature_matched"
    return (
        f"decoding '{label}': in all {prompts:,} prompts that were read every branch is the prompt itself, so it has "
        f"become {control} on these data."
    )
