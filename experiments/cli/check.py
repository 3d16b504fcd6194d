"""Try one component, ours or yours, on what every component of its kind must do."""

import sys
from typing import Annotated

import typer

from experiments.cli.component_kinds import kind_of, kind_with
from icl import testing
from icl.errors import ConfigError
from icl.registry import PACKAGES, build, with_article

CHECKS = tuple(kind for kind in PACKAGES if f"check_{kind}" in testing.__all__)


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
    try:
        facts = getattr(testing, f"check_{kind}")(build(kind, node, "command line"))
    except AssertionError as error:
        print(f"{kind} '{name}': {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{kind} '{name}' keeps what every {kind} must keep.")
    if facts is not None:
        print(facts.describe())


def _read(words: list[str]) -> tuple[str, str, list[str]]:
    """(kind, name, parameters); the kind may be left out where the name says it."""
    kind = kind_of(words[0])
    if kind and len(words) > 1 and "=" not in words[1]:
        return kind, words[1], words[2:]
    return kind_with(words[0], "check"), words[0], words[1:]
