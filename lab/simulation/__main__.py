"""Simulate runs with known truth: false positives, coverage, power, and what stopping early saves."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from icl.errors import ConfigError, did_you_mean


class Kind(StrEnum):
    """What is simulated."""

    COMPARISONS = "comparisons"
    PAGES = "pages"
    WORDING = "wording"
    FAMILIES = "families"
    SAVINGS = "savings"
    LABELS = "labels"


def command(
    what: Annotated[Kind, typer.Argument(help="what is simulated")],
    *,
    design: Annotated[
        list[str] | None,
        typer.Option(
            help="single, seeds, groups, graded, f1; of pages also wide grid, three tasks; several are allowed"
        ),
    ] = None,
    clusters: Annotated[list[int] | None, typer.Option(help="numbers of clusters", min=2)] = None,
    effect: Annotated[float, typer.Option(help="the difference of arms that differ", min=-0.5, max=0.5)] = 0.1,
    discordance: Annotated[
        float | None, typer.Option(help="the share of pairs that differ; .2, and .1 for savings", min=0.001, max=0.8)
    ] = None,
    comparisons: Annotated[int, typer.Option(help="families: the number of comparisons", min=1)] = 8,
    real: Annotated[int, typer.Option(help="families: how many of them differ", min=0)] = 0,
    level: Annotated[float, typer.Option(help="the level of `stop`", min=0.001, max=0.5)] = 0.05,
    looks: Annotated[int, typer.Option(help="the looks of `stop`", min=1, max=1000)] = 20,
    futility: Annotated[float, typer.Option(help="the futility of `stop`; 0: none", min=0, max=0.99)] = 0.05,
    margin: Annotated[float, typer.Option(help="the margin of `stop`; 0: none", min=0, max=0.99)] = 0.0,
    runs: Annotated[int, typer.Option(help="simulated runs of each figure", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="the random seed", min=0)] = 0,
    csv: Annotated[Path | None, typer.Option(help="a CSV file to write the table to")] = None,
) -> None:
    """Prints a Markdown table. Its statistics are those of reports, so it shows how often a report errs.

    comparisons: two arms and their paired test. pages: whole reports of equal arms. families: comparisons that stop
    when they are decided. savings: their share of the queries and power by the size of the effect. wording: arms that
    word their answers differently, with unread outputs. labels: an arm with prose and one without, and labels of a
    sample (--effect 0: equal arms).
    `python -m lab.simulation comparisons --design seeds --clusters 12 --clusters 50 --runs 1000`
    """
    from experiments.config.keys import StopSpec
    from lab.simulation import measures, settling
    from lab.simulation.designs import DESIGNS, DISCORDANCE, PAGE_DESIGNS
    from lab.simulation.wording import wording_rows

    spec = StopSpec(level=level, looks=looks, futility=futility or None, margin=margin or None)
    offered = {
        Kind.COMPARISONS: list(DESIGNS),
        Kind.PAGES: list(PAGE_DESIGNS),
        Kind.FAMILIES: [name for name in DESIGNS if name != "f1"],
        Kind.SAVINGS: ["single"],
        Kind.LABELS: ["single", "seeds"],
        Kind.WORDING: ["single"],
    }[what]
    designs = design or offered
    for name in designs:
        if name not in offered:
            raise ConfigError(
                f"--design: {what} has no design '{name}'.{did_you_mean(name, offered)} There are {', '.join(offered)}."
            )
    share = discordance or (DISCORDANCE / 2 if what is Kind.SAVINGS else DISCORDANCE)
    if abs(effect) > share and what in (Kind.COMPARISONS, Kind.FAMILIES, Kind.WORDING):
        raise ConfigError(f"--effect: a difference of {effect:g} needs at least as many pairs that differ ({share:g}).")
    if real > comparisons:
        raise ConfigError(f"--real: {real} of {comparisons} comparisons cannot differ.")
    rows: Iterable[Mapping[str, Any]]
    if what is Kind.COMPARISONS:
        rows = measures.comparison_rows(designs, clusters or [12, 50, 200], effect, share, runs=runs, seed=seed)
    elif what is Kind.PAGES:
        rows = measures.page_rows(designs, clusters or [12, 50, 200], runs, seed)
    elif what is Kind.WORDING:
        rows = wording_rows(clusters or [200], effect, share, runs, seed)
    elif what is Kind.FAMILIES:
        sizes = clusters or [200]
        rows = measures.family_rows(
            designs, sizes, effect, share, comparisons=comparisons, real=real, runs=runs, spec=spec, seed=seed
        )
    elif what is Kind.LABELS:
        numbers = clusters or [200, 600]
        rows = [
            {"design": name, **row}
            for name in designs
            for row in settling.settling_rows(numbers, [20, 40, 60, 100], effect, runs, seed, seeds=DESIGNS[name].seeds)
        ]
    else:
        rows = measures.saving_rows((clusters or [3000])[0], share, runs, spec, seed)
    _print(list(rows), measures.standard_error_note(runs), csv)


def _print(rows: Sequence[Mapping[str, Any]], note: str, csv: Path | None) -> None:
    """Prints the rows as a Markdown table, and writes them to a file if there is one."""
    heads = list(rows[0])
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(_cell(value) for value in row.values())} |")
    print(f"\n{note}.")
    if csv is not None:
        import pandas as pd

        from experiments.store.store import write_csv

        write_csv(csv, pd.DataFrame(rows))
        print(f"wrote {csv}")


def _cell(value: Any) -> str:
    from experiments.stats.formatting import format_share

    return format_share(value) if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with `arguments` (default: of the process). Returns 2 after a mistake, which it prints."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    try:
        typer.main.get_command(app).main(None if arguments is None else list(arguments), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
