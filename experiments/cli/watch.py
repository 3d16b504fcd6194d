"""Watch a run in progress, from anywhere that sees its folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.main import INTERRUPTED


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="say how far it is, and end")] = False,
) -> None:
    """Cells and samples that are finished, samples that failed, samples a second, the time left, workers at work.

    It reads the run directory alone, wherever the work is done, and ends with the run. Exit status: 0 if every sample
    is there, 1 if some failed or nobody is left who works on them, 130 after Ctrl-C (which stops the watching alone).
    """
    try:
        _watch(run, once)
    except KeyboardInterrupt:
        print("no longer watched. The run goes on.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _watch(run: Path, once: bool) -> None:
    from experiments.launch.watch import RunWatcher
    from experiments.terminal.progress import make_progress

    watch = RunWatcher(run)
    if once:
        print(f"{watch.poll().describe()}   {watch.folder}")
        return
    status = watch.follow(make_progress())
    if status.complete:
        print(f"complete     {status.finished:,} samples, {status.failed:,} failed   {watch.folder}")
        print(f"The command that began the run shows its table; icl report {watch.folder} writes its report.")
    else:
        print(
            f"{watch.folder}: nobody is at work. {status.describe()}. The `icl run` that began it goes on from there.",
            file=sys.stderr,
        )
    if status.failed or not status.complete:
        raise typer.Exit(1)
