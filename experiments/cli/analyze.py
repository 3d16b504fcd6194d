"""Analyze a run: `icl analyze RUN` lists the analyses, `icl analyze RUN copying` is one of them."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    name: Annotated[str, typer.Argument(help="which analysis; none: lists them")] = "",
    metric: Annotated[str, typer.Option(help="the score to look at; default: as the config says")] = "",
    to: Annotated[
        list[str] | None, typer.Option(help="the reference arm, such as decoding=greedy; default: as the config says")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="write the table to this file too")] = None,
) -> None:
    """Each analysis says in its file what it counts and what it leaves out.

    `icl analyze runs/x copying`
    """
    from rich.console import Console

    from experiments.analyses.catalog import find_analysis, list_analyses
    from experiments.analyses.terminal_table import print_analysis
    from experiments.cli.component_page import hanging_lines
    from experiments.report.sample_detail import parse_settings
    from experiments.results.loaded_run import load_run
    from experiments.results.run_view import view_run
    from experiments.store.store import write_text
    from experiments.terminal.spinner import spinner

    if not name:
        analyses = list_analyses()
        longest, width = max(map(len, analyses)), shutil.get_terminal_size().columns
        for analysis, summary in analyses.items():
            for line in hanging_lines(f"  {analysis:<{longest}}  ", summary, width):
                print(line)
        return
    analyze = find_analysis(name)
    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        view = view_run(load_run(run), metric or None, parse_settings(to or [], "--to"))
        report_progress("counting", 0, 0)
        table = analyze(view)
    print_analysis(table, Console())
    if csv is not None:
        write_text(csv, table.to_csv(index=False))
        print(f"wrote {csv}")
