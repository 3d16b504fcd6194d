"""Dotted overrides from the command line: `grid.shots=[0,4] model.path=Qwen/Qwen2.5-VL-7B-Instruct`.

A value is read as YAML. A component that is a bare name becomes a mapping when a parameter is put on it; a number
between dots is a place in a list (`grid.decoding.1.alpha=2`).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.config.keys import AXES, KEYS
from experiments.config.yaml_document import Document, KeyPath, format_key_path, parse_yaml, to_flow_yaml
from icl.errors import ConfigError
from icl.renamed_names import suggest


def apply_overrides(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> Document:
    """The document with dotted keys set. Raises ConfigError for an unknown key or a place that is not there."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    data, given = _copy(document.data), set(document.given)
    axes: dict[str, str] = {}
    for key, value in pairs:
        keys = _set(data, key, value)
        if keys[0] in AXES and keys[0] in (data.get("grid") or {}):
            axes[str(keys[0])] = f"grid.{keys[0]}={to_flow_yaml([value]) if len(keys) == 1 else '[...]'}"
        given.add(keys)
    if axes:
        what = f"{next(iter(axes))} is an axis" if len(axes) == 1 else f"{', '.join(axes)} are axes"
        raise ConfigError(f"command line: {what} of the grid. Write {shlex.join(axes.values())}.")
    return replace(document, data=data, given=frozenset(given))


def parse_override(text: str) -> tuple[str, Any]:
    """key=value, the value read as YAML. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: '{text}' is not of the form key=value, such as grid.shots=[0,4].")
    return key, parse_yaml(value, f"command line: {key}")[0]


def _set(data: dict[str, Any], told: str, value: Any) -> KeyPath:
    keys = _keys(data, told)
    at: Any = data
    for i, key in enumerate(keys):
        place = format_key_path(keys[:i])
        if isinstance(at, list) and (isinstance(key, str) or key >= len(at)):
            raise ConfigError(f"command line: {told}: {place} is a list of {len(at)} values; '{key}' is none of them.")
        if i == len(keys) - 1:
            at[key] = value
            break
        below: Any = at.get(key) if isinstance(at, dict) else at[key]
        if isinstance(below, str):  # a component by its bare name
            below = {"name": below}
        elif below is None:
            below = {}
        elif not isinstance(below, dict | list):
            raise ConfigError(
                f"command line: {told}: {format_key_path(keys[: i + 1])} is {below!r}, which has no keys."
            )
        at[key] = below
        at = below
    return keys


def _keys(data: Mapping[str, Any], told: str) -> KeyPath:
    """The place that a dotted key names. Under grid and zip, dots may belong to the axis: `grid.decoding.alpha`."""
    words = told.split(".")
    if words[0] not in KEYS:
        raise ConfigError(f"command line: {told}: no key '{words[0]}'{suggest('key', words[0], KEYS)}")
    if words[0] not in ("grid", "zip") or len(words) == 1:
        below = data.get(words[0])
        return tuple(int(w) if w.isdigit() and isinstance(below, list) and i == 0 else w for i, w in enumerate(words))
    for i, word in enumerate(words):
        if word.isdigit():
            return (words[0], ".".join(words[1:i]), int(word), *words[i + 1 :])
    return (words[0], ".".join(words[1:]))


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _copy(value) for key, value in node.items()}
    return [_copy(item) for item in node] if isinstance(node, list | tuple) else node
