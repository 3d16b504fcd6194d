"""Try one component, ours or yours, on what every component of its kind must do."""

import importlib
import sys
from typing import Annotated

import typer

from experiments.cli.component_kinds import kind_of, kind_with
from icl.errors import ConfigError
from icl.registry import build, with_article

CHECKS = {
    "task": "icl.testing.conformance:check_task",
    "model": "icl.testing.conformance:check_model",
    "metric": "icl.testing.conformance:check_metric",
    "edit": "icl.testing.edits:check_edit",
    "embedder": "retrievers.machinery.embedder_conformance:check_embedder",
    "retriever": "retrievers.machinery.conformance:check_retriever",
    "reranker": "retrievers.machinery.conformance:check_reranker",
    "orderer": "prompts.conformance:check_orderer",
    "transform": "prompts.conformance:check_transform",
    "composer": "prompts.conformance:check_composer",
    "strategy": "decoding.conformance:check_strategy",
    "launcher": "experiments.launch.conformance:check_launcher",
}


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
    from experiments.config.overrides import parse_override

    kind, name, parameters = _read(words)
    if kind not in CHECKS:
        raise ConfigError(f"there is no check for {with_article(kind)}. There are checks for: {', '.join(CHECKS)}.")
    node = {"name": name, **dict(map(parse_override, parameters))}
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
    kind = kind_of(words[0])
    if kind and len(words) > 1 and "=" not in words[1]:
        return kind, words[1], words[2:]
    return kind_with(words[0], "check"), words[0], words[1:]
