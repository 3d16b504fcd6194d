"""Analyze a run: `icl analyze RUN` lists the analyses, `icl analyze RUN copying` runs one."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    name: Annotated[str, typer.Argument(help="the analysis; by default all are listed")] = "",
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config")] = "",
    to: Annotated[
        list[str] | None, typer.Option(help="the reference arm, such as decoding=greedy; by default that of the config")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column of the data, such as category: the analysis of each of its values; repeatable"),
    ] = None,
    *,
    queries: Annotated[
        int | None, typer.Option(help="of an analysis that reads the model: queries of each cell; 50", min=1)
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="a file to draw the table to: .pdf, .png or .svg")] = None,
    csv: Annotated[Path | None, typer.Option(help="a CSV file to write the table to")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="import code that the run names by path, such as a metric of its own")
    ] = False,
) -> None:
    """Prints the table of one analysis. The docstring of its module defines the columns.

    `icl analyze runs/x copying`
    """
    from rich.console import Console

    from experiments.analyses.catalog import analyze_by, find_analysis, list_analyses, with_queries
    from experiments.analyses.terminal_table import print_analysis
    from experiments.cli.component_page import hanging_lines
    from experiments.report.analysis_figure import check_figure_file, draw_analysis
    from experiments.report.sample_detail import parse_settings
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import write_text
    from experiments.terminal.spinner import spinner

    if not name:
        analyses = list_analyses()
        longest, width = max(map(len, analyses)), shutil.get_terminal_size().columns
        for analysis, summary in analyses.items():
            for line in hanging_lines(f"  {analysis:<{longest}}  ", summary, width):
                print(line)
        return
    analyze = find_analysis(name) if queries is None else with_queries(find_analysis(name), name, queries)
    if figure is not None:
        check_figure_file(figure)  # before an analysis that may take hours
    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"))
        report_progress("counting", 0, 0)
        table = analyze_by(analyze, view, by) if by else analyze(view)
    print_analysis(table, Console())
    if csv is not None:
        write_text(csv, table.to_csv(index=False))
        print(f"wrote {csv}")
    if figure is not None:
        draw_analysis(table, name, figure)
        print(f"wrote {figure}")
