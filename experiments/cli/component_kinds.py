"""The kind of component that a word of the command line names: `strategy`, `strategies` and `decoding` are one."""

from collections.abc import Mapping
from typing import Any

from experiments.config.keys import COMPONENT_KINDS
from icl.errors import ConfigError, did_you_mean
from icl.registry import PACKAGES, called_here, entries, resolve, with_article

PLURALS = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in PACKAGES}
WORDS: Mapping[str, str] = {
    **{kind: kind for kind in PACKAGES},
    **COMPONENT_KINDS,
    **PLURALS,
    **{f"{key}s": kind for key, kind in COMPONENT_KINDS.items() if not key.endswith("s")},
    "metrics": "metric",
    "observe": "observer",
}
"""The kind for every word: the kind itself, a key of an experiment file, and the plurals of both."""
METHODS = {
    "fit": "retriever",
    "combine": "strategy",
    "order": "orderer",
    "compose": "composer",
    "transform": "transform",
    "pool": "task",
    "generate": "model",
    "score": "metric",
    "reattach": "launcher",
    "artifact": "observer",
    "apply_to_image": "edit",
}
"""The method that shows the kind of a component without a mark."""


def kind_of(word: str) -> str | None:
    """The kind that a word names, or None."""
    return WORDS.get(word)


def kind_with(name: str, command: str) -> str:
    """The kind of the component with this name or path. Raises ConfigError if no kind has it, or several have."""
    if ":" in name:
        return _kind_of_class(resolve("", name, "command line"), name)
    kinds = [kind for kind in PACKAGES if name in entries(kind)]
    if not kinds:
        components = [entry for kind in PACKAGES for entry in entries(kind).values()]
        hint = called_here(name, components) or f".{did_you_mean(name, [entry.name for entry in components])}"
        raise ConfigError(f"no component named '{name}'{hint} (icl ls)")
    if len(kinds) > 1:
        raise ConfigError(
            f"'{name}' is the name of {' and of '.join(map(with_article, kinds))}. Say which: icl {command} "
            f"{kinds[0]} {name}."
        )
    return kinds[0]


def _kind_of_class(cls: type[Any], name: str) -> str:
    mark = getattr(cls, "component", None)
    kind = mark[0] if mark else next((kind for method, kind in METHODS.items() if hasattr(cls, method)), None)
    if kind is None:
        raise ConfigError(f"{name} has none of the methods {', '.join(METHODS)}, so it is not a component.")
    return str(kind)
