"""Find contrasts whose branches are all equal on the data, though they differ on other data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from experiments.grid.grid import Cell
from experiments.grid.grid_warnings import TOLERANCE, degenerate_at_shots

if TYPE_CHECKING:
    from decoding.base import Strategy
    from icl.types import Prompt


@dataclass
class IdenticalBranches:
    """A counter of prompts in which branches differ, for each strategy of the config with several branches."""

    read: dict[str, int] = field(default_factory=dict)
    differ: dict[str, int] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    shots: dict[str, set[int]] = field(default_factory=dict)

    def add(self, cell: Cell, branches: "Sequence[Prompt]") -> None:
        if len(branches) > 1 and not (cell.control or cell.decoding.strategy.traits.is_control):
            label = str(cell.labels["decoding"])
            self.cells[label] = cell
            self.shots.setdefault(label, set()).add(cell.shots)
            self.read[label] = self.read.get(label, 0) + 1
            self.differ[label] = self.differ.get(label, 0) + (len({branch.digest for branch in branches}) > 1)

    def notes(self) -> list[str]:
        """A sentence for each strategy that contrasts nothing on these data, unless `grid_warnings` reports it."""
        return [
            _note(label, self.cells[label].decoding.strategy, self.read[label])
            for label, count in self.differ.items()
            if count == 0 and not all(degenerate_at_shots(self.cells[label], shots) for shots in self.shots[label])
        ]


def _note(label: str, strategy: "Strategy", prompts: int) -> str:
    from decoding.arms.inspection import constant_strength

    strength = constant_strength(strategy)
    control = "mask_only" if strength is None or abs(strength - 1) < TOLERANCE else "temperature_matched"
    return (
        f"decoding '{label}': in all {prompts:,} prompts that were read every branch is the prompt itself, so it has "
        f"become {control} on these data."
    )
