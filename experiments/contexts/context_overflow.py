"""Prompts that a model has no room for: longer than its context, or with more images than it may be shown.

A prompt that is too long goes without its least similar demonstrations (`prompts.budget`), so an arm of many shots may
show fewer than its name says; one with too many images is refused by its model, and its sample fails.
"""

from dataclasses import dataclass, field

from experiments.contexts.contexts import RenderedSample
from experiments.grid.grid import Cell
from experiments.stats.formatting import format_count

MAX_REASONS = 3
"""Of samples without a prompt; others are counted."""


@dataclass
class _Arm:
    """seen: digests of prompts. cut: how many demonstrations went, of each that lost any. images: of the largest."""

    seen: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)
    images: int = 0


@dataclass
class ContextOverflow:
    """Of each model and number of shots, which prompts did not fit."""

    arms: dict[tuple[str, int], _Arm] = field(default_factory=dict)
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def without(self, item: RenderedSample) -> None:
        """A sample that has no prompt, and why."""
        self.lost.setdefault(item.failure or "", item.example.id)

    def see(self, cell: Cell, item: RenderedSample) -> None:
        if item.prompt is None:
            return
        key = str(cell.labels["model"]), cell.shots
        arm, digest = self.arms.setdefault(key, _Arm()), item.prompt.digest
        self.cells.setdefault(key, cell)
        arm.seen.add(digest)
        if item.num_dropped:
            arm.cut[digest] = item.num_dropped
        most, images = cell.model.max_images, len(item.prompt.images)
        if most is not None and images > most:
            arm.crowded.add(digest)
            arm.images = max(arm.images, images)

    def notes(self) -> list[str]:
        """A sentence for each arm that shows less than it is called, or that will fail, and why some have no prompt."""
        lost = [f"sample {query} has no prompt: {why}" for why, query in list(self.lost.items())[:MAX_REASONS]]
        return [*lost, *(sentence for key, arm in self.arms.items() for sentence in self._told(key, arm))]

    def _told(self, key: tuple[str, int], arm: _Arm) -> list[str]:
        (label, shots), model = key, self.cells[key].model
        where, read = f"model '{label}', {format_count(shots, 'shot')}", f"of {len(arm.seen):,} prompts that were read"
        told = []
        if arm.cut:
            least, most = min(arm.cut.values()), max(arm.cut.values())
            span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            told.append(
                f"{where}: {len(arm.cut):,} {read} are longer than its context of {model.max_tokens:,} tokens, so "
                f"{span} of the demonstrations are left out of each, the least similar first. Tables call them "
                f"{shots:,} shots all the same."
            )
        if arm.crowded:
            told.append(
                f"{where}: {len(arm.crowded):,} {read} have up to {arm.images:,} images, and model.max_images "
                f"allows {model.max_images:,}. Such samples fail: set it higher, or leave it out."
            )
        return told
