"""Replace components that need the model, so that prompts can be counted before the model is loaded.

The default retriever, which needs nothing, replaces a retriever that cannot run yet.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from experiments.config.keys import DEFAULTS
from experiments.grid.grid import Cell

if TYPE_CHECKING:
    from retrievers.base import Retriever


def placeholder_retriever() -> "Retriever":
    """The default retriever, for prompts that are only counted."""
    from icl.registry import build

    return cast("Retriever", build("retriever", DEFAULTS["retriever"]))


def has_placeholder_retriever(cell: Cell) -> bool:
    """Whether the cell has the default retriever, while its label names another."""
    default, label = DEFAULTS["retriever"], str(cell.labels["retriever"])
    _, name = getattr(type(cell.retriever), "component", ("retriever", ""))
    return bool(name == default and not label.startswith(default))


def without_model_calls(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the default order in place of an orderer that calls the model, and without such transforms.

    A prompt has the same length in any order. Retrievers stay; callers replace them.
    """
    from icl.registry import build

    default, replaced = build("orderer", DEFAULTS["order"]), []
    for cell in cells:
        order = default if "model" in getattr(cell.order, "needs", ()) else cell.order
        transforms = tuple(transform for transform in cell.transforms if "model" not in transform.needs)
        replaced.append(replace(cell, order=order, transforms=transforms))
    return replaced
