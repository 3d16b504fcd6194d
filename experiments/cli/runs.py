"""List the runs of a folder: when, how many arms and samples, the best score, the state."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="the folder of run directories")] = Path("runs"),
) -> None:
    """The latest run first. The score is the best mean of the metric by which a run is judged, not a test.

    `icl runs`; `icl compare runs/a runs/b` compares two of them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from experiments.results.run_list import list_runs
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        runs = list_runs(folder)
    if not runs:
        print(f"{folder} has no runs.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("run", "when", "arms", "samples", "state", "best score"):
        table.add_column(head, justify="right" if head in ("arms", "samples") else "left", overflow="fold")
    for run in runs:
        when = f"{run.time:%Y-%m-%d %H:%M}" if run.time else "–"
        samples = f"{run.done:,}" if run.done == run.planned else f"{run.done:,} of {run.planned:,}"
        cells = (str(run.path.name or run.path), when, f"{run.arms:,}", samples, run.state, run.score or "–")
        table.add_row(*map(Text, cells))
    Console().print(table)
    for run in runs:
        if run.problem:
            print(f"{run.path}: {run.problem}", file=sys.stderr)
