"""Match cells against the values in `exclude` and `compare: {to: ...}`.

A name matches every component of that name. For `decoding` it may also be the arm's label. A mapping matches where its
keys agree. A list matches any of its values.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.config.keys import LIST_AXES
from experiments.grid.label_matching import match_label
from icl.errors import ConfigError, did_you_mean
from icl.registry import describe

if TYPE_CHECKING:
    from experiments.grid.grid import Grid


def matches_all(exclusion: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a cell has all values of one entry of `exclude`. values: axis -> the component or number of the cell."""
    return all(matches(values[axis], axis, value) for axis, value in exclusion.items())


def matches(component: Any, axis: str, value: Any) -> bool:
    """Whether a value of the file names the component or number that a cell has on this axis."""
    if isinstance(value, list) and axis not in LIST_AXES:
        return any(matches(component, axis, item) for item in value)
    if axis != "decoding":
        return node_matches(value, describe(component))
    arm = component.config
    return value == component.label or node_matches(value, {**arm["strategy"], "sampling": arm["sampler"]})


def node_matches(value: Any, node: Any) -> bool:
    """Whether a value of a config names a node of `icl.registry.describe`."""
    if isinstance(node, Mapping) and isinstance(value, str):
        return bool(node.get("name") == value or node.get("name", "").endswith(":" + value.rpartition(":")[2]))
    if isinstance(value, Mapping) and isinstance(node, Mapping):
        return all(key in node and node_matches(item, node[key]) for key, item in value.items())
    if isinstance(value, list) and isinstance(node, list):
        return len(value) == len(node) and all(map(node_matches, value, node))
    return bool(value == node)


def check_comparable(grid: "Grid") -> None:
    """Raises ConfigError if `compare` names a value or a metric that the grid lacks, or several values at once."""
    compare = grid.config.compare
    if compare is None:
        return
    for axis, value in compare.to.items():
        labels = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
        where = grid.config.where("compare", "to", axis)
        if not any(matches(cell.axis_value(axis), axis, value) or cell.labels[axis] == value for cell in grid.cells):
            hint = did_you_mean(str(value), labels)
            raise ConfigError(f"{where}: no cell has {axis} {value!r}.{hint} It has {', '.join(labels)}.")
        if len(labels) > 1:
            match_label(value, labels, axis, where)
    if compare.metric not in grid.metrics:
        where = grid.config.where("compare", "metric")
        hint = did_you_mean(compare.metric, grid.metrics)
        raise ConfigError(
            f"{where}: no metric '{compare.metric}' in metrics.{hint} There are {', '.join(grid.metrics)}."
        )
