"""Compute an analysis of a run; `icl show RUN NAME` then shows it again."""

import sys
from typing import Annotated

import typer

from experiments.analyses.catalog import analyze_by, find_analysis, list_analyses, with_parameters, with_queries
from experiments.analyses.stored_results import AnalysisOptions, analysis_doc, read_basis, store_result
from experiments.cli.main import print_names
from experiments.cli.options import As, By, Metric, Out, Run, To, Trust, check_format, print_section
from experiments.config.yaml_document import parse_override
from experiments.report.sample_detail import parse_settings
from experiments.report.sections.analyses import analysis_section, figure_spec
from experiments.results import loaded_run
from experiments.results.view_run import view_run
from experiments.terminal.progress import spinner
from icl import StoreError


def command(
    run: Run,
    name: Annotated[
        str, typer.Argument(help="the analysis, or the path of your own (mine.py); by default all are listed")
    ] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Argument(help="parameters of the analysis, such as layer=12 share=0.5", show_default=False),
    ] = None,
    *,
    metric: Metric = "",
    to: To = None,
    by: By = None,
    queries: Annotated[
        int | None, typer.Option(help="queries per cell, for analyses that run the model (default 50)", min=1)
    ] = None,
    kind: As = "",
    out: Out = None,
    trust: Trust = False,
) -> None:
    """`icl analyze RUN` lists the analyses, `icl analyze RUN copying` computes one and prints its table.

    The docstring of its module defines the columns and the parameters. The result is stored in the run directory
    (`analyses/`), and `icl report` shows it. With --by, there is an analysis of each value of the column.
    """

    if not name:
        print_names(list_analyses())
        return
    check_format(kind, out)
    analyze = function = find_analysis(name)
    if parameters:
        analyze = with_parameters(analyze, name, dict(map(parse_override, parameters)))
    if queries is not None:
        analyze = with_queries(analyze, name, queries)
    with spinner("reading") as report_progress:
        opened = loaded_run.load_run(run, trust)
        basis = read_basis(opened.path)
        view = view_run(opened, metric or None, parse_settings(to or [], "--to"))
        report_progress("counting", 0, 0)
        table = analyze_by(analyze, view, by) if by else analyze(view)
    options = AnalysisOptions(name, metric, tuple(to or ()), tuple(by or ()), queries, tuple(parameters or ()))
    try:  # before it is printed: it may have taken hours
        stored = f"stored {store_result(view.path, options, basis, table, analysis_doc(function))}"
    except StoreError as error:  # the run directory may be read-only
        stored = f"The report will not show this result: {error}"
    print_section(analysis_section(table, name), kind, out)
    print(stored, file=sys.stdout if stored.startswith("stored") and not kind else sys.stderr)
    figure_spec(table, name)  # a mistake in it is a sentence now, not in the report
