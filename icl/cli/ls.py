"""List the components of one kind, or of all kinds, each with one line."""

from collections.abc import Iterator
from typing import Annotated

import typer

from experiments.vocabulary import KINDS
from icl.errors import ConfigError, did_you_mean
from icl.registry import PACKAGES, entries, resolve

PLURALS = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in PACKAGES}


def command(
    kind: Annotated[str, typer.Argument(help="a kind (retriever, strategies) or a key (decoding); none: all")] = "",
) -> None:
    """A component's own docstring says what each parameter means; `icl schema` has them all."""
    kind = KINDS.get(kind, kind)
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
        if kind and one == "model":
            print("\nWhat each can do (generate: answers; logits: next-token scores here; score: whole options):")
            for line in _table([*_abilities()]):
                print(f"  {line}".rstrip())


COLUMNS = ("model", "generate", "logits", "score", "strategies", "hidden", "adapters", "quantization")


def _abilities() -> Iterator[tuple[str, ...]]:
    """A row a backend, as its class says. One that cannot be imported here says why."""
    for name in entries("model"):
        try:
            cls = resolve("model", name)
        except ConfigError as error:
            yield name, str(error)
            continue
        has: frozenset[str] = cls.abilities
        can = {
            "generate": has & {"generate", "logits", "strategies"},
            "logits": has & {"logits"},
            "score": has & {"score", "logits"},
            "strategies": has & {"strategies", "logits"},
            "hidden": has & {"hidden"},
            "adapters": getattr(cls, "adapters", False),
        }
        bits = ", ".join(getattr(cls, "quantizations", ())) or "-"
        yield name, *("yes" if can[column] else "-" for column in COLUMNS[1:-1]), bits


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    whole = [row for row in rows if len(row) == len(COLUMNS)]
    widths = [max(len(row[i]) for row in (COLUMNS, *whole)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
