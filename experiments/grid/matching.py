"""What `exclude` and `compare: {to: ...}` mean: does a cell have this value on this axis?

A name matches every component of that name, and an arm by its label; a mapping matches where its keys agree; a list
matches any of its values.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.config.keys import LIST_AXES
from experiments.stats.arms import match_label
from icl.errors import ConfigError, did_you_mean
from icl.registry import describe

if TYPE_CHECKING:
    from experiments.grid.grid import Cell, Grid


def matches_all(hole: "Mapping[str, Any]", cell: "Cell") -> bool:
    """Whether the cell has all the values of a hole of `exclude`."""
    return all(matches(cell, axis, wanted) for axis, wanted in hole.items())


def matches(cell: "Cell", axis: str, wanted: Any) -> bool:
    """Whether the cell has this value on this axis."""
    if isinstance(wanted, list) and axis not in LIST_AXES:
        return any(matches(cell, axis, one) for one in wanted)
    if axis != "decoding":
        return node_matches(wanted, describe(cell.axis_value(axis)))
    told = cell.decoding.describe()
    return wanted == cell.decoding.label or node_matches(wanted, {**told["strategy"], "sampling": told["sampler"]})


def node_matches(wanted: Any, told: Any) -> bool:
    """Whether a value, as a config names it, is that of a node of `icl.registry.describe`."""
    if isinstance(told, Mapping) and isinstance(wanted, str):
        return bool(told.get("name") == wanted or told.get("name", "").endswith(":" + wanted.rpartition(":")[2]))
    if isinstance(wanted, Mapping) and isinstance(told, Mapping):
        return all(key in told and node_matches(value, told[key]) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(told, list):
        return len(wanted) == len(told) and all(map(node_matches, wanted, told))
    return bool(wanted == told)


def check_comparable(grid: "Grid") -> None:
    """Raises ConfigError where `compare` names a value or a metric that the grid lacks, or several values at once."""
    compare = grid.config.compare
    if compare is None:
        return
    for axis, wanted in compare.to.items():
        if not any(matches(cell, axis, wanted) or cell.labels[axis] == wanted for cell in grid.cells):
            have = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
            where = grid.config.where("compare", "to", axis)
            raise ConfigError(
                f"{where}: no cell has {axis} {wanted!r}.{did_you_mean(str(wanted), have)} It has {', '.join(have)}."
            )
        if len(labels := list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))) > 1:
            match_label(wanted, labels, axis, grid.config.where("compare", "to", axis))
    if compare.metric not in grid.metrics:
        where = grid.config.where("compare", "metric")
        known = ", ".join(grid.metrics)
        near = did_you_mean(compare.metric, grid.metrics)
        raise ConfigError(f"{where}: no metric '{compare.metric}' in metrics.{near} There are {known}.")
