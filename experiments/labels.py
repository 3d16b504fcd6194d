"""Short names for the values of an axis: as little as tells them apart.

A component is called by its name; two of one name also by the parameters in which they differ: `knn(by=question)`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from icl.brief import brief

PATH_KEYS = ("path", "checkpoint")
"""A model or a task read from somewhere is better known by where from than by the backend's name."""


def labels(nodes: Sequence[Any], titles: Sequence[str | None] | None = None) -> list[str]:
    """One label a canonical node (of `icl.registry.describe`); equal nodes get equal labels.

    titles: what the component calls itself or the user called it, where it does.
    """
    keys = [json.dumps(node or None, sort_keys=True, default=repr) for node in nodes]  # an empty list is none
    given = titles or [None] * len(nodes)
    called: dict[str, list[tuple[str, Any]]] = {}
    for key, (node, title) in dict(zip(keys, zip(nodes, given, strict=True), strict=True)).items():
        called.setdefault(title or _name(node), []).append((key, node))
    told = {}
    for name, same in called.items():
        for key, node in same:
            rivals = [other for _, other in same if other is not node]
            told[key] = f"{name}({_difference(node, rivals)})" if rivals else name
    return [told[key] for key in keys]


def _name(node: Any) -> str:
    if node is None:
        return "none"
    if isinstance(node, list):
        return "+".join(map(_name, node)) or "none"
    if not isinstance(node, Mapping):
        return str(node)
    for key in PATH_KEYS:
        if isinstance(node.get(key), str):
            return str(node[key]).rstrip("/").rsplit("/", 1)[-1]
    name = str(node.get("name", "?")).rsplit(":", 1)[-1].rsplit(".", 1)[-1]
    inner = [_name(value) for value in node.values() if isinstance(value, Mapping) and "name" in value]
    return f"{name}({', '.join(inner)})" if inner and "of" in node else name


def _difference(node: Any, rivals: Sequence[Any]) -> str:
    flat = _flat(node)
    others = [_flat(rival) for rival in rivals]
    keys = [key for key, value in flat.items() if any(other.get(key) != value for other in others)]
    return ", ".join(f"{key}={_plain(flat[key])}" for key in keys) or "other"


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    if isinstance(node, list) and len(node) == 1 and isinstance(node[0], Mapping):
        return _flat(node[0], prefix)
    if isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        return {k: v for i, value in enumerate(node) for k, v in _flat(value, f"{prefix}.{i}".lstrip(".")).items()}
    return {prefix: node}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else brief(str(value))
