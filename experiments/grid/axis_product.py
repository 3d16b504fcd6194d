"""The combinations of a config's axes, as nodes with their places in the file.

An axis such as `decoding.alpha` sets the alpha of a combination's strategy, if it has one. An axis that no component of
any combination reads is an error.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from experiments.config.config import Config
from experiments.config.keys import COMPONENT_KINDS, LIST_AXES
from icl.errors import ConfigError, did_you_mean
from icl.registry import component_name, resolve

PlacedNode = tuple[Any, str]
"""A value of an axis and its place in the file."""


def axis_combinations(config: Config) -> list[dict[str, PlacedNode]]:
    """Each combination: a node for every axis. Raises ConfigError for an axis that nothing reads."""
    points = list(_points(config))
    read = {axis for point in points for axis in _apply_parameters(point)}
    _check_all_read(config, read)
    return points


def _points(config: Config) -> Iterator[dict[str, PlacedNode]]:
    base = {axis: (node, config.where(axis)) for axis, node in config.base.items()}
    columns = [
        [(axis, node, config.where("grid", axis, i)) for i, node in enumerate(values)]
        for axis, values in config.grid.items()
    ]
    pairs = [
        [(axis, values[i], config.where("zip", axis, i)) for axis, values in config.zip.items()]
        for i in range(len(next(iter(config.zip.values()), [])))
    ]
    for chosen in itertools.product(*columns):
        for row in pairs or [[]]:
            yield {**base, **{axis: (node, where) for axis, node, where in (*chosen, *row)}}


def _apply_parameters(point: dict[str, PlacedNode]) -> list[str]:
    """Sets `decoding.alpha` of the point's strategy, if it has an alpha. Returns the axes that the point reads."""
    read = [axis for axis in point if "." not in axis]
    for axis in [axis for axis in point if "." in axis]:
        value, where = point.pop(axis)
        head, *path = axis.split(".")
        node, at = point[head]
        changed = _with_parameter(head, (node, at), path, value)
        if changed is not None:
            point[head] = (changed, where)
            read.append(axis)
    return read


def _with_parameter(head: str, node: PlacedNode, path: Sequence[str], value: Any) -> Any:
    """The node with the parameter, at most one level into a nested component; None if it has no such parameter."""
    value_of_head, where = node
    config = {"name": value_of_head} if isinstance(value_of_head, str) else value_of_head
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str) or len(path) > 2:
        return None
    is_arm_key = head == "decoding" and path[0] in ("sampling", "acts_in", "normalize")
    if not is_arm_key and path[0] not in _parameters(resolve(COMPONENT_KINDS[head], config["name"], where)):
        return None
    if len(path) == 1:
        return {**config, path[0]: value}
    inner = config.get(path[0]) or {}
    return {**config, path[0]: {**({"name": inner} if isinstance(inner, str) else inner), path[1]: value}}


def _parameters(cls: type[Any]) -> list[str]:
    return [str(f.metadata.get("key", f.name)) for f in fields(cls) if f.init] if is_dataclass(cls) else []


def _check_all_read(config: Config, read: set[str]) -> None:
    for key, axes in (("grid", config.grid), ("zip", config.zip)):
        for axis in axes:
            if axis not in read:
                head, _, parameter = axis.partition(".")
                if head in LIST_AXES:
                    raise ConfigError(
                        f"{config.where(key, axis)}: {head} is a list, and no axis can set a parameter of its "
                        f"elements. Write each complete list as a value of the axis {head}."
                    )
                nodes = axes.get(head) or config.grid.get(head) or config.zip.get(head) or [config.base[head]]
                names = [component_name(COMPONENT_KINDS[head], node, config.where(head)) for node in nodes]
                parameters = [
                    p for name in names for p in _parameters(resolve(COMPONENT_KINDS[head], name, config.where(head)))
                ]
                takes = f"{head} is {', '.join(names)}, which take" + ("s" if len(names) == 1 else "")
                takes += f" {', '.join(dict.fromkeys(parameters))}." if parameters else " no parameters."
                where, hint = config.where(key, axis), did_you_mean(parameter, parameters)
                raise ConfigError(f"{where}: no component reads the axis '{axis}'.{hint} {takes}")
