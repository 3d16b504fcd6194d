"""Print the scores of a run as a table for a paper: LaTeX (booktabs), Markdown, HTML or CSV."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import ConfigError


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    *,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config", show_default=False)] = "",
    to: Annotated[
        list[str] | None, typer.Option(help="the reference arm, such as decoding=greedy; by default that of the config")
    ] = None,
    rows: Annotated[list[str] | None, typer.Option(help="an axis of the rows, such as decoding; repeatable")] = None,
    columns: Annotated[str, typer.Option(help="the axis of the columns; by default the shots")] = "",
    by: Annotated[
        list[str] | None, typer.Option(help="a column of the data, such as category; repeatable", show_default=False)
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX for the package booktabs")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown, the default")] = False,
    html: Annotated[bool, typer.Option("--html", help="HTML")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="the numbers, one row per arm, with the comparison")] = False,
    out: Annotated[Path | None, typer.Option(help="the file to write; by default the table is printed")] = None,
    trust: Trust = False,
) -> None:
    """A cell is the mean with both ends of its interval. Bold: significantly better than the reference.

    `icl table runs/x --columns task --latex --out scores.tex`; `icl table runs/x --by category`
    """
    from experiments.report import paper_table
    from experiments.report.sample_detail import parse_settings
    from experiments.results.data_columns import split_view
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import csv_text, write_text

    flags = {"latex": latex, "markdown": markdown, "html": html, "csv": csv}
    formats = [name for name, chosen in flags.items() if chosen] or ["markdown"]
    if len(formats) > 1:
        raise ConfigError(f"{' and '.join(f'--{name}' for name in formats)} are two formats. Choose one.")
    if csv and (rows or columns):
        raise ConfigError("--csv has one row per arm and a column per axis: leave out --rows and --columns.")
    view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"))
    if csv:
        text = csv_text(paper_table.numbers_frame(split_view(view, by) if by else view))
    else:
        text = paper_table.FORMATS[formats[0]](paper_table.paper_table(view, rows or (), columns, by or ()))
    if out is None:
        print(text, end="")
        return
    write_text(out, text)
    print(f"wrote {out}")
