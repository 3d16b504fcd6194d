"""Match cells against the values in `exclude` and `compare: {to: ...}`.

A name matches every component of that name. For `decoding` it may also be the arm's label. A mapping matches where its
keys agree. A list matches any of its values. `match_label` finds the one label of a table that a value names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.keys import LIST_AXES
from icl import ConfigError, describe, did_you_mean


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


def match_label(value: Any, labels: Sequence[str], axis: str, where: str) -> str:
    """The one label that a value names. Raises ConfigError if it names none or several.

    Args:
        value: A label, a component's name, or a mapping of a name and parameters.
        labels: The labels that the axis has.
        axis: The axis, for the error.
        where: The place of the value (file and key), for the error.
    """
    label = str(_label(value))
    matches = [label] if label in labels else _matching_labels(value, labels)
    if len(matches) != 1:
        text = ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, Mapping) else label
        several = f"{where}: {len(matches)} arms have {axis} '{text}'. Use the label of one: {', '.join(matches)}."
        none = f"{where}: no arm has {axis} '{text}'.{did_you_mean(label, labels)} Values: {', '.join(labels)}."
        raise ConfigError(several if matches else none)
    return matches[0]


def name_of(label: str) -> str:
    """'vcd' of 'vcd(alpha=0.5), temperature=1'."""
    return label.partition("(")[0].partition(", ")[0]


def _matching_labels(value: Any, labels: Sequence[str]) -> list[str]:
    """The labels that a value may name: {quantize: none} matches 'tiny(quantize=none)'.

    A label has only the parameters in which it differs from others; all other parameters are equal. A bare name
    matches every label of that name. It also matches a component given by its path if the label contains its name.
    """
    parameters_of = {label: set(label.partition("(")[2].removesuffix(")").split(", ")) for label in labels}
    if isinstance(value, str):
        return [label for label in labels if name_of(label) == value or f"name={value}" in parameters_of[label]]
    if not isinstance(value, Mapping):
        return []
    keys = {item.partition("=")[0] for items in parameters_of.values() for item in items}
    flat = _flat_parameters({key: item for key, item in value.items() if key not in ("name", "label")})
    required = {f"{key}={item}" for path, item in flat.items() for key in keys if f".{path}".endswith(f".{key}")}
    required |= {f"name={value['name']}"} & set().union(*parameters_of.values()) if "name" in value else set()
    names = {str(value[key]).rstrip("/").rpartition("/")[2] for key in ("label", "name", "path") if key in value}
    same_name = [label for label in labels if label.partition("(")[0] in names]
    if not required and not same_name:
        return []
    return [label for label in same_name or labels if required <= parameters_of[label]]


def _flat_parameters(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value. An inner component is the key of its place with its name as the value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat_parameters(value, f"{prefix}{key}.")
        else:
            flat[prefix.rstrip(".") if key == "name" and prefix else f"{prefix}{key}"] = value
    return flat


def _label(value: Any) -> Any:
    return value.get("label", value.get("name")) if isinstance(value, Mapping) else value
