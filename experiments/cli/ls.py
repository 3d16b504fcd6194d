"""List the components of one kind or of all kinds, or the shipped experiments; show one of them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.component_kinds import PLURALS, WORDS, kind_of, kind_with
from experiments.cli.component_page import component_page, hanging_lines
from experiments.config.shipped import find_config, shipped_configs, summary
from icl.errors import ConfigError, did_you_mean
from icl.registry import PACKAGES, ComponentEntry, called_here, entries, resolve


def command(
    kind: Annotated[
        str,
        typer.Argument(
            help="a kind (retriever, strategies), a key (decoding), a component, or configs; by default all"
        ),
    ] = "",
    name: Annotated[str, typer.Argument(help="a component of the kind, or its path, to show")] = "",
) -> None:
    """`icl ls decoding` lists the decoding strategies, `icl ls decoding vcd` shows one.

    The page of a component has its paper and formula, its parameters with types, defaults and meaning, its presets, and
    lines of an experiment file that use it.

    `icl ls configs` lists the experiments that `icl run NAME` runs, `icl ls configs quickstart` prints one.
    """
    width = shutil.get_terminal_size().columns
    if kind in CONFIGS:
        _print_configs(name, width)
        return
    if not kind:
        for one in PACKAGES:
            print(one)
            _list(list(entries(one).values()), width)
        print("\n`icl ls configs` lists the shipped experiments.")
        print("`icl ls KIND NAME`, such as `icl ls strategy vcd`, shows one with its parameters.")
        return
    component_kind = kind_of(kind)
    if component_kind is None and name:
        raise ConfigError(f"no kind of component named '{kind}'.{did_you_mean(kind, WORDS)} {_KINDS}")
    if component_kind is None:
        named = any(kind in entries(one) for one in PACKAGES) or ":" in kind
        if not named:
            components = [entry for one in PACKAGES for entry in entries(one).values()]
            candidates = [*WORDS, *(entry.name for entry in components)]
            hint = called_here(kind, components) or f".{did_you_mean(kind, candidates)}"
            raise ConfigError(f"no component or kind of component named '{kind}'{hint} {_KINDS}")
        component_kind, name = kind_with(kind, "ls"), kind
    if name:
        for line in component_page(component_kind, name, width):
            print(line)
        return
    _list(list(entries(component_kind).values()), width)
    if component_kind == "model":
        print("\nThe columns: generate answers; return next-token logits; score whole options;")
        print("run decoding strategies; return hidden states; load adapters; load quantized.")
        print("served: if the server is `icl serve`.")
        for line in _table([*_abilities()], width):
            print(line)
        for name, cls in _loadable():
            if bits := _quantizations(cls):
                print(f"  quantized, {name}: {bits}")
    print(f"\n`icl ls {kind} NAME` shows one with its parameters.")


_KINDS = f"Kinds: {', '.join(PLURALS)}."
CONFIGS = ("config", "configs")


def _print_configs(name: str, width: int) -> None:
    """Prints one shipped experiment file, or lists all of them."""
    if not name:
        _list_configs(width)
        print("\n`icl run NAME` runs one, `icl ls configs NAME` prints its file.")
        return
    print(find_config(Path(name)).read_text(encoding="utf-8"), end="")


def _list_configs(width: int) -> None:
    configs = shipped_configs()
    longest = max(map(len, configs), default=0)
    for name, path in configs.items():
        for line in hanging_lines(f"  {name:<{longest}}  ", summary(path), width):
            print(line)


def _list(components: Sequence[ComponentEntry], width: int) -> None:
    longest = max((len(entry.name) for entry in components), default=0)
    for entry in components:
        for line in hanging_lines(f"  {entry.name:<{longest}}  ", entry.summary, width):
            print(line)


COLUMNS = ("model", "generate", "logits", "score", "strategies", "hidden_states", "adapters", "quantized")


def _abilities() -> Iterator[tuple[str, ...]]:
    """One row per backend, from its class. If it cannot be imported, the row has the reason."""
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
            "hidden_states": has & {"hidden_states"},
            "adapters": cls.supports_adapters,
            "quantized": _quantizations(cls),
        }
        served = cls.abilities_when_served
        yield name, *("yes" if can[column] else "served" if column in served else "-" for column in COLUMNS[1:])


def _loadable() -> Iterator[tuple[str, type[Any]]]:
    for name in entries("model"):
        with suppress(ConfigError):  # its row has the reason
            yield name, resolve("model", name)


def _quantizations(cls: type[Any]) -> str:
    return ", ".join(cls.quantizations)


def _table(rows: list[tuple[str, ...]], width: int) -> Iterator[str]:
    whole = [row for row in rows if len(row) == len(COLUMNS)]
    widths = [max(len(row[i]) for row in (COLUMNS, *whole)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        head = "".join(f"{cell:<{size}}  " for cell, size in zip(row[:-1], widths, strict=False))
        yield from hanging_lines(f"  {head}", row[-1], width)
