"""Dotted overrides from the command line: `grid.shots=[0,4] model.path=Qwen/Qwen2.5-VL-7B-Instruct`.

A value is read as YAML. A component that is a plain name becomes a mapping if an override sets one of its parameters.
A number between dots is an index of a list (`grid.decoding.1.alpha=2`).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.config.keys import AXES, KEYS, LIST_AXES
from experiments.config.yaml_document import Document, KeyPath, format_key_path, parse_yaml, to_flow_yaml
from icl.errors import ConfigError
from icl.renamed_names import suggest


def apply_overrides(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> Document:
    """The document with the values of overrides.

    Args:
        document: An experiment file.
        overrides: Texts such as 'grid.shots=[0,4]', or dotted key -> value.

    Raises:
        ConfigError: An unknown key, or a place that does not exist.
    """
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    try:
        data, overridden = _copy(document.data), set(document.overridden)
    except RecursionError as error:  # a Python mapping that contains itself
        raise ConfigError(
            f"{document.name}: lists or mappings are nested too deeply. An experiment needs a few levels."
        ) from error
    axes: dict[str, None] = {}
    suggestions: list[str] = []
    for key, value in pairs:
        keys = _set(data, key, value)
        if keys[0] in AXES and keys[0] in (data.get("grid") or {}):
            axis = str(keys[0])
            path = axis if axis in LIST_AXES else format_key_path(keys)
            suggestions.append(f"grid.{path}={'[...]' if len(keys) > 1 and path == axis else to_flow_yaml([value])}")
            axes[axis] = None
        overridden.add(keys)
    if axes:
        what = f"{next(iter(axes))} is an axis" if len(axes) == 1 else f"{', '.join(axes)} are axes"
        raise ConfigError(f"command line: {what} of the grid. Write {shlex.join(suggestions)}.")
    return replace(document, data=data, overridden=frozenset(overridden))


def parse_override(text: str) -> tuple[str, Any]:
    """(key, value) of a text 'key=value'. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: '{text}' is not of the form key=value, such as grid.shots=[0,4].")
    return key, parse_yaml(value, f"command line: {key}")[0]


def _set(data: dict[str, Any], dotted_key: str, value: Any) -> KeyPath:
    """Sets a value in place and returns its path."""
    keys = _split_key(data, dotted_key)
    node: Any = data
    for i, key in enumerate(keys):
        place = format_key_path(keys[:i])
        if isinstance(node, list) and (isinstance(key, str) or key >= len(node)):
            raise ConfigError(
                f"command line: {dotted_key}: {place} is a list of {len(node)} values; '{key}' is not a valid index."
            )
        if i == len(keys) - 1:
            node[key] = value
            break
        child: Any = node.get(key) if isinstance(node, dict) else node[key]
        if isinstance(child, str):  # a component without parameters
            child = {"name": child}
        elif child is None:
            child = {}
        elif not isinstance(child, dict | list):
            raise ConfigError(
                f"command line: {dotted_key}: {format_key_path(keys[: i + 1])} is {child!r}, which has no keys."
            )
        node[key] = child
        node = child
    return keys


def _split_key(data: Mapping[str, Any], dotted_key: str) -> KeyPath:
    """The path of a dotted key. Under grid and zip, dots may belong to the axis: `grid.decoding.alpha`."""
    words = dotted_key.split(".")
    if words[0] not in KEYS:
        raise ConfigError(f"command line: {dotted_key}: no key '{words[0]}'{suggest('key', words[0], KEYS)}")
    if words[0] not in ("grid", "zip") or len(words) == 1:
        is_list = isinstance(data.get(words[0]), list)
        return tuple(int(word) if word.isdigit() and is_list and i == 1 else word for i, word in enumerate(words))
    for i, word in enumerate(words):
        if word.isdigit():
            return (words[0], ".".join(words[1:i]), int(word), *words[i + 1 :])
    return (words[0], ".".join(words[1:]))


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _copy(value) for key, value in node.items()}
    return [_copy(item) for item in node] if isinstance(node, list | tuple) else node
