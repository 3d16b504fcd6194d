"""Write a run's report: one self-contained HTML file, its tables as CSV, its figures as SVG."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
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
    trust: Annotated[
        bool, typer.Option("--trust", help="import code that the run names by path, such as a metric of its own")
    ] = False,
) -> None:
    """The report of a run in progress shows the finished samples."""
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        from experiments.report.html import write_report
        from experiments.report.sample_detail import parse_settings
        from experiments.results.data_columns import column_values
        from experiments.results.loaded_run import load_run
        from experiments.results.view_run import view_run

        view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"), by)
        for name in by or ():
            column_values(view.frame, name, view.axes)
        report_progress("writing", 0, 0)
        files = write_report(view, per_cell)
    size = files.report.stat().st_size / 1e6
    print(f"report  {files.report} ({size:.1f} MB)")
    print(f"tables  {', '.join(map(str, files.tables))}")
    print(f"figures {', '.join(map(str, files.figures))}")
