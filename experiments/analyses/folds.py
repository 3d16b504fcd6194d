"""Tasks that are folds of one: alike but for what is held out. Their samples together, with the emoji as the unit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.grid.axis_labels import short_labels
from experiments.stats.arms import UNIT, tidy_frame
from experiments.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

HELD_OUT = "held_out"
"""The parameter of a task in which folds differ."""

FOLDED = ("task", "retriever")
"""Axes whose components may name what is held out."""


def merge_folds(view: "RunView", rows: "DataFrame") -> "DataFrame | None":
    """The rows with all folds of a task under one name; None where no task has folds.

    What belongs together (a group) does so across folds: one emoji is asked about in several vendors' drawings.
    """
    store = Store(view.path)
    cells = {digest: store.read_cell(str(digest)) or {} for digest in rows["cell"].unique()}
    if len({_held_out(cell.get("task")) for cell in cells.values()}) < 2:
        return None
    columns = rows.drop(columns=[UNIT], errors="ignore")
    for axis in FOLDED:
        nodes = {digest: _without(cell.get(axis)) for digest, cell in cells.items()}
        names = dict(zip(nodes, short_labels(list(nodes.values())), strict=True))
        columns = columns.assign(**{axis: [names[digest] for digest in rows["cell"]]})
    frame = tidy_frame(columns, view.axes)
    frame.attrs = dict(rows.attrs)
    return frame


def _held_out(node: Any) -> str:
    return str(node.get(HELD_OUT)) if isinstance(node, Mapping) else ""


def _without(node: Any) -> Any:
    """The node without what is held out, at any depth."""
    if isinstance(node, Mapping):
        return {key: _without(value) for key, value in node.items() if key != HELD_OUT}
    return [_without(one) for one in node] if isinstance(node, list) else node
