"""Whether the models of a grid fit on a device, from the largest request that the plan counts for each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.grid.grid import Cell
from icl.errors import ConfigError, ModelError
from icl.models.hf.memory_plan import MemoryPlan, RequestSize

if TYPE_CHECKING:
    from experiments.planning.plan import Plan
    from icl.models.base import Model

UNITS = {"MB": 2**20, "GB": 2**30}
"""Sizes of devices are named in decimal units and built in binary ones: a card of 24 GB has 24 GiB."""


@dataclass
class LargestRequests:
    """The largest request of each model: longest prompt, longest answer, most branches, largest image.

    Attributes:
        sizes: A cell of the model, and the sizes.
    """

    sizes: dict[int, tuple[Cell, RequestSize]] = field(default_factory=dict)

    def add(self, cell: Cell, branches: int, tokens: int, num_images: int) -> None:
        """A prompt of `tokens` tokens with so many images, which share them at most."""
        before = self.sizes.get(id(cell.model), (cell, RequestSize(0, 0, 0)))[1]
        is_longer = tokens > before.prompt_tokens
        size = replace(
            before,
            prompt_tokens=max(before.prompt_tokens, tokens),
            new_tokens=max(before.new_tokens, cell.max_output_tokens),
            branches=max(before.branches, branches),
            shots=cell.shots if is_longer else before.shots,
            image_tokens=max(before.image_tokens, tokens / num_images if num_images else 0.0),
        )
        self.sizes[id(cell.model)] = cell, size

    def add_image_uses(self, model: "Model", uses: float) -> None:
        """So many images are read in contexts of a model whose prompts were added."""
        if id(model) in self.sizes:
            cell, size = self.sizes[id(model)]
            self.sizes[id(model)] = cell, replace(size, image_uses=size.image_uses + uses)


def device_bytes(text: str) -> float:
    """'24GB', '80 GiB' -> bytes. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])i?B", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--device: '{text}' is not the memory of a device. Write 24GB or 40960MB.")
    return float(match[1]) * UNITS[f"{match[2].upper()}B"]


def memory_plans(plan: "Plan", device: float) -> Iterator[tuple[str, MemoryPlan | None]]:
    """(the model's label, its memory on a device of so many bytes or None if it cannot be estimated)."""
    for cell, size in plan.largest.sizes.values():
        images = plan.work.images + plan.work.edited
        yield str(cell.labels["model"]), cell.model.memory_plan(replace(size, images=images), device)


def memory_lines(plans: list[tuple[str, MemoryPlan | None]]) -> Iterator[str]:
    """One line for each model."""
    for label, memory in plans:
        yield f"{label}: " + (
            memory.describe() if memory else "no estimate; only models of `hf` that are not stored packed have one"
        )


def check_memory(plans: list[tuple[str, MemoryPlan | None]]) -> None:
    """Raise ModelError if one request of a model does not fit on the device."""
    problems = [f"{label}: {memory.problem}" for label, memory in plans if memory and memory.problem]
    if problems:
        raise ModelError(" ".join(problems))
