"""Cells as they are counted before their model is started: without what would ask it while prompts are written."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.grid import Cell
from experiments.vocabulary import DEFAULTS


def unasked(cells: Sequence[Cell]) -> list[Cell]:
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
