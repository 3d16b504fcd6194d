"""Tasks that are folds of one task: equal except for what is held out. The unit of their samples is the emoji."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import read_cells
from experiments.grid.axis_labels import short_labels
from experiments.stats.arms import UNIT, tidy_frame

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

HELD_OUT = "held_out"
"""The task parameter in which folds differ."""

FOLDED = ("task", "retriever")
"""The axes whose components may have the parameter."""


def merge_folds(view: "RunView", rows: "DataFrame") -> "DataFrame | None":
    """The rows with all folds of a task under one name; None if no task has folds.

    Groups are joined across folds: one emoji occurs in the drawings of several vendors.
    """
    cells = read_cells(view, rows)
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
    """The node without the parameter HELD_OUT, at any depth."""
    if isinstance(node, Mapping):
        return {key: _without(value) for key, value in node.items() if key != HELD_OUT}
    return [_without(one) for one in node] if isinstance(node, list) else node
