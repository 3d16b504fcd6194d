"""Make a run from logs of lmms-eval, lm-eval, VLMEvalKit or inspect, or from other runs."""

import os
import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from experiments.imports.logs import Axis, read_logs, write_imported_run
from experiments.imports.merged_runs import describe_merge, merge_runs
from experiments.terminal.progress import spinner
from icl import ConfigError


def command(
    run: Annotated[Path, typer.Argument(help="the run directory to write", show_default=False)],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=LOG|RUN...", help="an arm and its log file or folder; or run directories", show_default=False
        ),
    ],
    *,
    axis: Annotated[str, typer.Option(help="what the names are: model or decoding")] = "model",
    metric: Annotated[
        str, typer.Option(help="the metric of comparisons; by default the first of the logs", show_default=False)
    ] = "",
    group: Annotated[
        str, typer.Option(help="a column of the logs that names the cluster of a sample", show_default=False)
    ] = "",
) -> None:
    """Nothing is run again, and the run has intervals, paired tests and the report. The first log is the reference.

    `icl import runs/pope plain=logs/plain vcd=logs/vcd --axis decoding`, then `icl compare runs/pope`

    Run directories are merged into one, which every command reads. Runs of one task must have the same queries and
    seeds. They stay as they are, and the same command again reads them again.

    `icl import runs/all runs/vcd runs/dola`, then `icl report runs/all`
    """
    is_run = [os.path.isfile(os.path.join(source, "run.json")) for source in sources]
    if all(is_run):
        _merge(run, [Path(source) for source in sources])
    elif any(is_run):
        other = sources[is_run.index(False)]
        why = "is a log: make a run of the logs first" if "=" in other else "is not a run directory (no run.json)"
        raise ConfigError(f"{other} {why}. Runs are merged with runs alone.")
    else:
        _import_logs(run, sources, axis, metric, group)


def _merge(out: Path, runs: list[Path]) -> None:

    with spinner("merging"):
        done = merge_runs(out, runs)
    print(f"{'; '.join(sentence.rstrip('.') for sentence in describe_merge(done))}   {out}")


def _import_logs(run: Path, logs: list[str], axis: str, metric: str, group: str) -> None:

    if axis not in get_args(Axis):
        raise ConfigError(f"--axis is {' or '.join(get_args(Axis))}, not '{axis}'.")
    paths: dict[str, Path] = {}
    for one in logs:
        name, sign, path = one.partition("=")
        if not sign or not name or not path:
            raise ConfigError(f"'{one}' is not NAME=LOG, such as greedy=logs/greedy, and not a run directory.")
        if name in paths:
            raise ConfigError(f"'{name}' is the name of two logs. Give each log a name of its own.")
        paths[name] = Path(path)
    read = {name: read_logs(path) for name, path in paths.items()}
    done = write_imported_run(run, read, cast(Axis, axis), metric, group)
    for note in done.notes:
        print(note, file=sys.stderr)
    print(f"imported {done.samples:,} samples in {done.cells:,} cells, scores {', '.join(done.metrics)}   {run}")
