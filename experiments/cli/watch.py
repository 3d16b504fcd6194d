"""Watch the progress of a run, from any machine that has its folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.main import INTERRUPTED


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="print the progress once and exit")] = False,
) -> None:
    """Prints finished cells and samples, failed samples, samples per second, the remaining time and running workers.

    `--once` also prints what the run shows so far: verdicts with `stop`, else differences with intervals. They hold at
    any time. Ordinary p-values of a growing run do not, and are not printed.

    It reads only the run directory and ends with the run. Exit status: 0 if all samples are present, 1 if some failed
    or no worker is left, 130 after Ctrl-C (which does not stop the run).
    """
    try:
        _watch(run, once)
    except KeyboardInterrupt:
        print("stopped watching. The run continues.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _watch(run: Path, once: bool) -> None:
    from experiments.launch.watch import RunWatcher
    from experiments.terminal.progress import make_progress

    watch = RunWatcher(run)
    if once:
        print(f"{watch.poll().describe()}   {watch.folder}")
        for sentence in watch.comparisons():
            print(f"  {sentence}")
        return
    status = watch.follow(make_progress())
    if status.complete:
        print(f"complete     {status.finished:,} samples, {status.failed:,} failed   {watch.folder}")
        print(f"Run its `icl run` command to print the table, or `icl report {watch.folder}` to write the report.")
    else:
        print(
            f"{watch.folder}: no worker is running. {status.describe()}. Run its `icl run` command to continue.",
            file=sys.stderr,
        )
        for sentence in watch.comparisons():
            print(f"  {sentence}")
    if status.failed or not status.complete:
        raise typer.Exit(1)
