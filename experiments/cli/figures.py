"""Draw the scores of a run for a paper: PDF, PNG and SVG, one figure per task."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import ConfigError, strip_control_characters


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option(help="the folder of the figures; by default figures/print of the run")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--format", help="pdf, png or svg; repeatable; by default all three")
    ] = None,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config", show_default=False)] = "",
    by: Annotated[
        list[str] | None, typer.Option(help="a column of the data, such as category; repeatable", show_default=False)
    ] = None,
    trust: Trust = False,
) -> None:
    """Light, with embedded fonts. Lines against the number of shots, or one point per arm. Many arms become panels.

    `icl figures runs/x --out paper/figures --format pdf`
    """
    from experiments.report import figure_files, figures, tables
    from experiments.report.html import file_names
    from experiments.results.data_columns import split_view
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import refuse_links

    formats = list(dict.fromkeys(kind or figure_files.FORMATS))
    if wrong := [name for name in formats if name not in figure_files.FORMATS]:
        raise ConfigError(f"--format is {', '.join(figure_files.FORMATS)}, not '{wrong[0]}'.")
    view = view_run(load_run(run, trust), metric or None, by=())
    if by:
        view = split_view(view, by)
    every = tables.task_tables(view)
    looks = figures.assign_line_styles(every, tables.control_labels(view))
    named = list(zip(file_names([table.task for table in every]), every, strict=True))
    refuse_links(run)
    folder = out or run / "figures" / "print"
    for path in figure_files.write_figures(named, looks, view.measure, folder, formats):
        print(strip_control_characters(str(path)))
