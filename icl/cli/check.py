"""Try one component, ours or yours, on what every component of its kind must do."""

import importlib
import sys
from typing import Annotated, Any

import typer

from experiments.vocabulary import KINDS
from icl.errors import ConfigError, did_you_mean
from icl.registry import PACKAGES, a, build, entries, resolve

CHECKS = {
    "task": "icl.conformance:check_task",
    "model": "icl.conformance:check_model",
    "metric": "icl.conformance:check_metric",
    "retriever": "retrievers.conformance:check_retriever",
    "reranker": "retrievers.conformance:check_reranker",
    "orderer": "prompts.conformance:check_orderer",
    "transform": "prompts.conformance:check_transform",
    "composer": "prompts.conformance:check_composer",
    "strategy": "decoding.conformance:check_strategy",
}
METHODS = {
    "fit": "retriever",
    "combine": "strategy",
    "order": "orderer",
    "compose": "composer",
    "transform": "transform",
    "pool": "task",
    "generate": "model",
    "score": "metric",
}
"""What a component without the mark of its kind is known by."""


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] NAME [PARAMETERS]",
            help="a name (knn) or a path (studies/blind.py:Blind), its parameters (alpha=0.5) after it",
            show_default=False,
        ),
    ],
) -> None:
    """Says what is wrong in one sentence and exits with 1, or what the component is and exits with 0."""
    from experiments.overrides import pair

    kind, name, parameters = _read(words)
    if kind not in CHECKS:
        raise ConfigError(f"there is no check for {a(kind)}. There are checks for: {', '.join(CHECKS)}.")
    node = {"name": name, **dict(map(pair, parameters))}
    module, _, function = CHECKS[kind].partition(":")
    try:
        facts = getattr(importlib.import_module(module), function)(build(kind, node, "command line"))
    except AssertionError as error:
        print(f"{kind} '{name}': {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{kind} '{name}' keeps what every {kind} must keep.")
    if facts is not None:
        print(facts.told())


def _read(words: list[str]) -> tuple[str, str, list[str]]:
    """(kind, name, parameters); the kind may be left out where the name says it."""
    kind = KINDS.get(words[0], words[0])
    if kind in PACKAGES and len(words) > 1 and "=" not in words[1]:
        return kind, words[1], words[2:]
    return _kind(words[0]), words[0], words[1:]


def _kind(name: str) -> str:
    if ":" in name:
        return _kind_of(resolve("", name, "command line"), name)
    found = [kind for kind in PACKAGES if name in entries(kind)]
    if not found:
        known = [known for kind in PACKAGES for known in entries(kind)]
        raise ConfigError(f"no component named '{name}'.{did_you_mean(name, known)} (icl ls)")
    if len(found) > 1:
        raise ConfigError(
            f"'{name}' is the name of {' and of '.join(map(a, found))}. Say which: icl check {found[0]} {name}."
        )
    return found[0]


def _kind_of(cls: type[Any], name: str) -> str:
    mark = getattr(cls, "component", None)
    found = mark[0] if mark else next((kind for method, kind in METHODS.items() if hasattr(cls, method)), None)
    if found is None:
        raise ConfigError(f"{name} has none of the methods {', '.join(METHODS)}, so it is no component.")
    return str(found)
