"""Run a study: compute what is missing, print the answer, write the report."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.main import INTERRUPTED
from experiments.cli.options import ConfigFile, Limit, Overrides, Quiet, RunsFolder
from icl import ConfigError, ICLError, StoreError, rich, strip_control_characters

if TYPE_CHECKING:
    from experiments.config.config import Config
    from experiments.observers.observation import Observation
    from experiments.running.run_session import RunOutcome


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    quiet: Quiet = False,
    fork: Annotated[bool, typer.Option("--fork", help="start a new run in the next free folder")] = False,
    *,
    limit: Limit = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="part I of N; other processes compute the others")] = "",
    device: Annotated[
        str, typer.Option(help="memory of a GPU, such as 24GB: stop before loading a model that does not fit")
    ] = "",
) -> None:
    """Running the command again reuses all results and computes only missing samples.

    With --limit, pool and demonstrations are the same as in the whole run. Without it, the same command reuses the
    samples.

    With --shard 1/4 to 4/4, four processes, on any machines that see the folder, compute a part each. Start a part
    again if its process died. Then the same command without --shard merges the parts and prints the table.

    Exit status: 0 if all samples are present (or jobs were submitted), 1 if samples failed, or are missing because a
    worker died or an arm was given up (its first samples all failed), 2 if the run could not start, 130 after Ctrl-C.
    """
    try:
        if device:
            _check_device(file, overrides or [], device)
        if shard:
            _run_shard(file, overrides or [], runs, shard, is_alone=not (fork or limit))
        else:
            _run(file, overrides or [], runs, quiet, fork=fork, limit=limit)
    except KeyboardInterrupt:
        print("stopped. Finished samples are stored; run the same command to continue.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _run(file: Path, overrides: list[str], runs: Path, quiet: bool, *, fork: bool, limit: int | None) -> None:
    from experiments.config.config import load_config
    from experiments.store import Store, refuse_imported

    folder = file.parent if file.name == "run.json" else file
    if os.path.isdir(folder):  # unlike `Path.is_dir`, no error for a name that is too long
        refuse_imported(folder, Store(folder).read_run() or {})
    run_config(load_config(file, overrides), runs, quiet, fork, limit=limit)


def _check_device(file: Path, overrides: list[str], device: str) -> None:
    """Prints what the models need. Raises ModelError if one request of a model does not fit on the device."""
    from experiments.config.config import load_config
    from experiments.grid import expand
    from experiments.planning.plan import make_plan
    from experiments.planning.plan_text import check_memory, device_bytes, memory_lines, memory_plans

    available = device_bytes(device)
    memory = list(memory_plans(make_plan(expand(load_config(file, overrides))), available))
    print(*memory_lines(memory), sep="\n", file=sys.stderr)
    check_memory(memory)


def _run_shard(file: Path, overrides: list[str], runs: Path, shard: str, is_alone: bool) -> None:
    from experiments.config.config import load_config
    from experiments.launch.worker import run_shard

    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--shard must be a part and the number of parts, from 1/4 to 4/4, not {shard!r}.")
    if not is_alone:
        raise ConfigError("--shard computes a part of a whole run. Leave out --fork and --limit.")
    if run_shard(load_config(file, overrides), runs, int(index), int(count)):
        raise typer.Exit(1)
    print(f"shard {shard} is finished. After all have ended, run the command without --shard to print the table.")


def run_config(config: "Config", runs: Path, quiet: bool, fork: bool = False, *, limit: int | None = None) -> None:
    """Runs a config and prints its table. Raises typer.Exit if samples failed or are missing."""
    from experiments.observers.observation import Observation
    from experiments.running.run import run
    from experiments.terminal.progress import make_progress

    progress = make_progress(quiet)
    with Observation(_print_note if quiet else progress.note) as observation:
        done = run(config, runs, progress, fork, observation, limit=limit)
        observation.is_complete = not done.missing
        _print_outcome(done, quiet, observation)
    if done.failed or done.missing:
        raise typer.Exit(1)


def _print_outcome(done: "RunOutcome", quiet: bool, observation: "Observation") -> None:
    """Prints the outcome, writes the report and passes it to the observers."""
    from experiments.store import Store, dropped_cells_note

    for warning in filter(None, [*done.warnings, dropped_cells_note(Store(done.folder))]):
        print(warning, file=sys.stderr)
    if done.jobs:
        count = len(done.jobs)
        print(f"submitted    {count} job{'s' * (count > 1)}: {', '.join(done.jobs)}   {done.folder}")
        print(
            f"`icl show {done.folder} --follow` shows their progress. After they have ended, run the same command "
            "again."
        )
        return
    if not done.computed and not done.missing:
        print(f"nothing to do ({done.samples:,} samples present)   {done.folder}")
    else:
        print(f"done         {done.computed:,} samples, {done.failed:,} failed   {done.folder}", file=sys.stderr)
    if not quiet or observation.active:
        _show_results(done.folder, quiet, observation)
    if done.missing:
        print(f"{done.missing:,} samples are missing. Run the same command to compute them.", file=sys.stderr)


def _print_note(text: str) -> None:
    """Prints an observer's failure, which --quiet does not hide."""
    print(strip_control_characters(text), file=sys.stderr)


def _show_results(folder: Path, quiet: bool, observation: "Observation") -> None:
    """Writes the report for the observers, then prints the table, what it shows, and the report's path."""
    from experiments.report import read_summary

    console = rich.console.Console()
    if not observation.active and (text := read_summary(folder, console)) is not None:
        console.file.write(text)
        return

    from experiments.report import print_summary, write_report, write_summary
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.terminal.progress import spinner

    problem: ICLError | None = None
    try:
        with spinner("reading") as report_progress:
            view = view_run(load_run(folder, trust=True))
            report_progress("reporting", 0, 0)
            try:
                files = write_report(view)
                for name, frame in files.frames.items():
                    observation.frame(name, frame)
                observation.artifact(files.report)
            except StoreError as error:  # such as a full disk: the table is printed
                problem = error
        with console.capture() as summary:
            print_summary(view, console)
        if not quiet:
            console.file.write(summary.get())
        if problem is None:
            write_summary(folder, console, summary.get())
    except ICLError as error:  # the samples are stored, and only their report is missing
        problem = error
    if problem is not None:
        print(f"no report: {problem}", file=sys.stderr)
