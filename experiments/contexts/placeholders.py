"""Cells as they are counted before their model is started: without what would ask it while prompts are written.

Where demonstrations are found by what cannot run yet, the usual retriever stands in, which needs nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from experiments.config.keys import DEFAULTS
from experiments.grid.grid import Cell

if TYPE_CHECKING:
    from retrievers.base import Retriever


def placeholder_retriever() -> "Retriever":
    """Finds demonstrations of a prompt that is only counted."""
    from icl.registry import build

    return cast("Retriever", build("retriever", DEFAULTS["retriever"]))


def has_placeholder_retriever(cell: Cell) -> bool:
    """Whether its retriever is `anything`, while its label names the one that was asked for."""
    usual, label = DEFAULTS["retriever"], str(cell.labels["retriever"])
    own = getattr(type(cell.retriever), "component", ("retriever", ""))
    return own[1] == usual and not label.startswith(usual)


def without_model_calls(cells: Sequence[Cell]) -> list[Cell]:
    """An orderer that asks the model is the usual order here, as a prompt is as long in any; transforms are left out.

    A retriever that asks it is another matter: whoever counts has demonstrations of his own for it.
    """
    from icl.registry import build

    usual, found = build("orderer", DEFAULTS["order"]), []
    for cell in cells:
        order = usual if "model" in getattr(cell.order, "needs", ()) else cell.order
        kept = tuple(transform for transform in cell.transforms if "model" not in transform.needs)
        found.append(replace(cell, order=order, transforms=kept))
    return found
