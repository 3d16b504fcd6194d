"""Import logs of lmms-eval, lm-eval, VLMEvalKit or inspect as a run: intervals, paired tests and the report."""

import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from icl.errors import ConfigError


def command(
    run: Annotated[Path, typer.Argument(help="the run directory to write", show_default=False)],
    logs: Annotated[
        list[str], typer.Argument(metavar="NAME=LOG...", help="an arm and its log file or folder", show_default=False)
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
    """Nothing is run again. The first log is the reference of comparisons.

    `icl import runs/pope plain=logs/plain vcd=logs/vcd --axis decoding`, then `icl compare runs/pope`
    """
    from experiments.imports.logs import read_logs
    from experiments.imports.run_of_logs import Axis, write_imported_run

    if axis not in get_args(Axis):
        raise ConfigError(f"--axis is {' or '.join(get_args(Axis))}, not '{axis}'.")
    paths: dict[str, Path] = {}
    for one in logs:
        name, sign, path = one.partition("=")
        if not sign or not name or not path:
            raise ConfigError(f"'{one}' is not NAME=LOG, such as greedy=logs/greedy.")
        if name in paths:
            raise ConfigError(f"'{name}' is the name of two logs. Give each log a name of its own.")
        paths[name] = Path(path)
    read = {name: read_logs(path) for name, path in paths.items()}
    done = write_imported_run(run, read, cast(Axis, axis), metric, group)
    for note in done.notes:
        print(note, file=sys.stderr)
    print(f"imported {done.samples:,} samples in {done.cells:,} cells, scores {', '.join(done.metrics)}   {run}")
