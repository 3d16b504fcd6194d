"""Short names for the values of an axis: as little as tells them apart.

A component is called by its name; two of one name also by the parameters in which they differ: `knn(by=question)`. Of
the components within them likewise: the name of one stands for its parameters wherever the other has another component
there, and a parameter goes without what it is within where that leaves no doubt: `rerank(embedder=pixels, size=8)`. No
two arms have one label.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from icl.truncate import truncate

PATH_KEYS = ("path", "checkpoint")
"""A model or a task read from somewhere is better known by where from than by the backend's name."""

NAME = "name"
_NOTHING = object()


def short_labels(nodes: Sequence[Any], titles: Sequence[str | None] | None = None) -> list[str]:
    """One label a canonical node (of `icl.registry.describe`); equal nodes get equal labels.

    titles: what the component calls itself or the user called it, where it does.
    """
    keys = [json.dumps(node or None, sort_keys=True, default=repr) for node in nodes]  # an empty list is none
    given = titles or [None] * len(nodes)
    called: dict[str, list[tuple[str, Any]]] = {}
    for key, (node, title) in dict(zip(keys, zip(nodes, given, strict=True), strict=True)).items():
        called.setdefault(title or _name(node), []).append((key, node))
    told: dict[str, str] = {}
    for name, same in called.items():
        flats = [_flat(node) for _, node in same]
        apart = [_apart(flat, [other for other in flats if other is not flat]) for flat in flats]
        short = _shortened({key for own in apart for key in own})
        for (key, _), flat, own in zip(same, flats, apart, strict=True):
            inner = ", ".join(f"{short[k]}={_plain(flat[k])}" for k in own) or "other"
            told[key] = f"{name}({inner})" if len(same) > 1 else name
    counts = Counter(told.values())
    return [told[key] if counts[told[key]] == 1 else f"{told[key]}#{_digest(key)}" for key in keys]


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


def _apart(flat: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that tell a node from a rival which is made of the same components, down to where the key stands."""

    def comparable(key: str, rival: Mapping[str, Any]) -> bool:
        path = key.split(".")
        above = [".".join([*path[:i], NAME]) for i in range(len(path))]
        return all(flat.get(name) == rival.get(name) for name in above if name != key)

    return [
        key
        for key, value in flat.items()
        if any(rival.get(key, _NOTHING) != value and comparable(key, rival) for rival in rivals)
    ]


def _shortened(keys: Set[str]) -> dict[str, str]:
    """Key -> its last words, as few as are the end of no other key. The name of an inner component is its place."""
    shown = {key: key.removesuffix(f".{NAME}") for key in keys}
    found = {}
    for key, whole in shown.items():
        words = whole.split(".")
        ends = [".".join(words[-i:]) for i in range(1, len(words) + 1)]
        others = [f".{other}" for name, other in shown.items() if name != key]
        free = (end for end in ends if not any(other.endswith(f".{end}") for other in others) and not end.isdigit())
        found[key] = next(free, whole)
    return found


def _digest(key: str) -> str:
    """Of two values that a label writes alike, such as numbers of many digits."""
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
