"""Write a run's report: one self-contained HTML file, its tables as CSV, its figures as SVG."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import ConfigError


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="run directories; several are merged", show_default=False)
    ],
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config", show_default=False)] = "",
    to: Annotated[
        list[str] | None, typer.Option(help="the reference arm, such as decoding=greedy; by default that of the config")
    ] = None,
    per_cell: Annotated[int, typer.Option(help="the number of queries per task in the sample browser", min=0)] = 24,
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column of the data, such as category; repeatable; by default that of the config"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="of several runs: the folder of the merged run; by default A+B beside the first"),
    ] = None,
    trust: Trust = False,
) -> None:
    """The report of a run in progress shows the finished samples.

    Several runs that pair, with the same queries and seeds of each task, have one report. They are merged into a folder
    of their own, as by `icl merge`, and stay as they are.
    """
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        from experiments.report.page import write_report
        from experiments.report.sample_detail import parse_settings
        from experiments.results.data_columns import column_values
        from experiments.results.loaded_run import load_run
        from experiments.results.view_run import view_run

        run, merged = _merge(runs, out)
        report_progress("reading", 0, 0)
        view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"), by)
        for name in by or ():
            column_values(view.frame, name, view.axes)
        report_progress("writing", 0, 0)
        files = write_report(view, per_cell)
    for sentence in merged:
        print(f"merged  {sentence}")
    size = files.report.stat().st_size / 1e6
    print(f"report  {files.report} ({size:.1f} MB)")
    print(f"tables  {', '.join(map(str, files.tables))}")
    print(f"figures {', '.join(map(str, files.figures))}")


def _merge(runs: list[Path], out: Path | None) -> tuple[Path, list[str]]:
    """The run directory of the report, and sentences on the runs that were merged into it."""
    if len(runs) == 1:
        if out is not None:
            raise ConfigError(
                "--out is the folder of several runs that are merged. The report of one run is in its folder."
            )
        return runs[0], []
    from experiments.config.keys import MAX_NAME_LENGTH
    from experiments.imports.merged_runs import describe_merge, merge_runs

    name = "+".join(run.resolve().name for run in runs)[:MAX_NAME_LENGTH]
    first = runs[0] if runs[0].name else runs[0].resolve()  # "." has no name
    folder = out or first.parent / name
    return folder, list(describe_merge(merge_runs(folder, runs)))
