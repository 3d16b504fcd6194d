"""Analyze a run: `icl analyze RUN` lists the analyses, `icl analyze RUN copying` runs one."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import StoreError


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    name: Annotated[
        str, typer.Argument(help="the analysis, or the path of your own (mine.py); by default all are listed")
    ] = "",
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
    trust: Trust = False,
) -> None:
    """Prints the table of one analysis. The docstring of its module defines the columns.

    The result is stored in the run directory (`analyses/`), and `icl report` shows it.

    `icl analyze runs/x copying`
    """
    from rich.console import Console

    from experiments.analyses.catalog import analyze_by, find_analysis, list_analyses, with_queries
    from experiments.analyses.stored_results import AnalysisOptions, analysis_doc, read_basis, store_result
    from experiments.cli.component_page import hanging_lines
    from experiments.report.figure import check_figure_file
    from experiments.report.sample_detail import parse_settings
    from experiments.report.sections.analyses import analysis_section, figure_spec
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import write_csv
    from experiments.terminal.spinner import spinner

    if not name:
        analyses = list_analyses()
        longest, width = max(map(len, analyses)), shutil.get_terminal_size().columns
        for analysis, summary in analyses.items():
            for line in hanging_lines(f"  {analysis:<{longest}}  ", summary, width):
                print(line)
        return
    analyze = function = find_analysis(name)
    if queries is not None:
        analyze = with_queries(analyze, name, queries)
    if figure is not None:
        check_figure_file(figure)  # before an analysis that may take hours
    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        opened = load_run(run, trust)
        basis = read_basis(opened.path)
        view = view_run(opened, metric or None, parse_settings(to or [], "--to"))
        report_progress("counting", 0, 0)
        table = analyze_by(analyze, view, by) if by else analyze(view)
    analysis_section(table, name).print(Console())
    if csv is not None:
        write_csv(csv, table)
        print(f"wrote {csv}")
    options = AnalysisOptions(name, metric, tuple(to or ()), tuple(by or ()), queries)
    try:
        print(f"stored {store_result(view.path, options, basis, table, analysis_doc(function))}")
    except StoreError as error:  # the run directory may be read-only, and the table is printed
        print(f"The report will not show this result: {error}", file=sys.stderr)
    figure_spec(table, name)  # a mistake in it is a sentence now, not in the report
    if figure is not None:
        made = analysis_section(table, name).figure
        if made is not None:
            made.write(figure.with_suffix(""), [figure.suffix[1:]])
        print(f"wrote {figure}")
