"""Results of a run: the answer, or one section, on the terminal or as LaTeX, Markdown, CSV, PDF, PNG or SVG."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import ConfigError

TEXTS = {"latex": ".tex", "markdown": ".md", "csv": ".csv"}
FIGURES = ("pdf", "png", "svg")


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    section: Annotated[str, typer.Argument(help="such as scores, differences or controls", show_default=False)] = "",
    *,
    kind: Annotated[str, typer.Option("--as", help="latex, markdown or csv; pdf, png or svg for its figure")] = "",
    out: Annotated[Path | None, typer.Option(help="the file; by default a text is printed")] = None,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config")] = "",
    to: Annotated[list[str] | None, typer.Option(help="the reference, such as decoding=greedy or shots=0")] = None,
    by: Annotated[list[str] | None, typer.Option(help="a column of the data, such as category; repeatable")] = None,
    trust: Trust = False,
) -> None:
    """`icl show runs/x scores --as latex`; `icl show runs/x scores --as pdf --out paper/scores.pdf`"""
    from rich.console import Console

    from experiments.report.page import find_section, sections
    from experiments.report.sample_detail import parse_settings
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import csv_text, write_text

    if kind and kind not in (*TEXTS, *FIGURES):
        raise ConfigError(f"--as is one of {', '.join((*TEXTS, *FIGURES))}, not '{kind}'.")
    view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"), by)
    one, console = find_section(view, section or "answer"), Console()
    if kind in FIGURES:
        if one.figure is None:
            raise ConfigError(f"'{one.name}' has no figure.")
        stem = (out or Path(one.name)).with_suffix("")
        print(*one.figure.write(stem, [kind]))
        return
    if not kind:
        one.print(console)
        if not section:
            for other in sections(view):
                console.print(f"  {other.name:<12} {other.folded or other.title}", style="dim", highlight=False)
        return
    assert one.frame is not None
    text = csv_text(one.frame) if kind == "csv" else one.to_latex() if kind == "latex" else one.to_markdown()
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
