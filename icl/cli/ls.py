"""List the components of one kind, or of all kinds, each with one line."""

from typing import Annotated

import typer

from icl.errors import ConfigError, did_you_mean
from icl.registry import PACKAGES, entries

PLURALS = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in PACKAGES}


def command(kind: Annotated[str, typer.Argument(help="a kind (retriever, strategies, ...); none: all")] = "") -> None:
    """A component's own docstring says what each parameter means; `icl schema` has them all."""
    if kind and kind not in PACKAGES and kind not in PLURALS:
        known = list(PLURALS)
        raise ConfigError(f"no kind of component named '{kind}'.{did_you_mean(kind, known)} Kinds: {', '.join(known)}.")
    for one in [PLURALS.get(kind, kind)] if kind else list(PACKAGES):
        found = entries(one)
        width = max(map(len, found), default=0)
        if not kind:
            print(f"{one}")
        for entry in found.values():
            print(f"  {entry.name:<{width}}  {entry.summary}")
