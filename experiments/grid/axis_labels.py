"""Short, distinct labels for the values of an axis.

The label of a component is its name. Components with the same name also have the parameters in which they differ:
`knn(by=question)`. The same holds for inner components: if two places have different components, only their names
appear. A nested parameter has as much of its path as makes it unambiguous: `rerank(embedder=pixels, size=8)`. No two
values have the same label.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from icl.errors import truncate

PATH_KEYS = ("path", "checkpoint")
"""A model or a task with one of these is named by its path, and not by its backend."""

NAME = "name"
_NOTHING = object()


def short_labels(nodes: Sequence[Any], titles: Sequence[str | None] | None = None) -> list[str]:
    """One label for each canonical node. Equal nodes have equal labels.

    Args:
        nodes: Results of `icl.registry.describe`.
        titles: Names that components or users chose, or None.
    """
    keys = [json.dumps(None if node == [] else node, sort_keys=True, default=repr) for node in nodes]
    titles = titles or [None] * len(nodes)
    by_name: dict[str, list[tuple[str, Any]]] = {}
    for key, (node, title) in dict(zip(keys, zip(nodes, titles, strict=True), strict=True)).items():
        by_name.setdefault(title or _name(node), []).append((key, node))
    labels: dict[str, str] = {}
    for name, same in by_name.items():
        flats = [_flat(node) for _, node in same]
        differing = [_differing_keys(flat, [other for other in flats if other is not flat]) for flat in flats]
        short = _shortened({key for own in differing for key in own})
        for (key, _), flat, own in zip(same, flats, differing, strict=True):
            inner = ", ".join(f"{short[k]}={_plain(flat[k])}" for k in own)
            labels[key] = f"{name}({inner})" if inner and len(same) > 1 else name
    counts = Counter(labels.values())
    return [labels[key] if counts[labels[key]] == 1 else f"{labels[key]}#{_digest(key)}" for key in keys]


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


def _differing_keys(flat: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ from another node's, if both have the same components on the key's path."""

    def same_components(key: str, other: Mapping[str, Any]) -> bool:
        path = key.split(".")
        names = [".".join([*path[:i], NAME]) for i in range(len(path))]
        return all(flat.get(name) == other.get(name) for name in names if name != key)

    return [
        key
        for key, value in flat.items()
        if any(other.get(key, _NOTHING) != value and same_components(key, other) for other in others)
    ]


def _shortened(keys: Set[str]) -> dict[str, str]:
    """Key -> its shortest suffix that is not a suffix of another key. A component's key is its path without `name`."""
    paths = {key: key.removesuffix(f".{NAME}") for key in keys}
    short = {}
    for key, path in paths.items():
        parts = path.split(".")
        suffixes = [".".join(parts[-i:]) for i in range(1, len(parts) + 1)]
        others = [f".{other}" for other_key, other in paths.items() if other_key != key]
        unique = (s for s in suffixes if not any(other.endswith(f".{s}") for other in others) and not s.isdigit())
        short[key] = next(unique, path)
    return short


def _digest(key: str) -> str:
    """Distinguishes values with equal text in a label, such as numbers with many digits."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:6]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    if isinstance(node, list) and len(node) == 1 and isinstance(node[0], Mapping):
        return _flat(node[0], prefix)
    if isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        return {k: v for i, value in enumerate(node) for k, v in _flat(value, f"{prefix}.{i}".lstrip(".")).items()}
    return {prefix: node}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else truncate(str(value))
