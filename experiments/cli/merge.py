"""Merge runs that pair into one run directory, which every command reads."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Argument(help="the run directory to write", show_default=False)],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run directories", show_default=False)],
) -> None:
    """Runs of one task must have the same queries and seeds. The runs stay as they are.

    `icl merge runs/all runs/vcd runs/dola`, then `icl report runs/all`. The same command again reads the runs again.
    """
    from experiments.imports.merged_runs import describe_merge, merge_runs
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("merging", 0, 0)
        done = merge_runs(out, runs)
    print(f"{'; '.join(sentence.rstrip('.') for sentence in describe_merge(done))}   {out}")
