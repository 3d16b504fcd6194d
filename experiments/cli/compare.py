"""Compare every arm of a run with its reference in pairs: difference, interval, p and corrected p."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from icl.errors import ConfigError


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="the reference: decoding=greedy, shots=0,retriever=random, or baseline=vote; by default the config's"
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config")] = "",
    by: Annotated[list[str] | None, typer.Option(help="an axis; p is corrected within each of its values")] = None,
    correct: Annotated[str, typer.Option(help="holm or none; by default that of the config")] = "",
    controls: Annotated[
        bool, typer.Option("--controls", help="the effect of each decoding next to its controls, with a verdict")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="with --controls: a Markdown file to write it to")] = None,
    csv: Annotated[Path | None, typer.Option(help="a CSV file to write the table to")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="import code that the run names by path, such as a metric of its own")
    ] = False,
) -> None:
    """Arms are paired by query and seed. Arms with other queries or seeds than their reference are refused.

    `icl compare runs/x --to decoding=greedy --by task`; `icl compare runs/x --controls`
    """
    from rich.console import Console

    from experiments.config.keys import CORRECTIONS
    from experiments.report.answer_section import print_answers
    from experiments.report.comparison import print_comparison
    from experiments.report.controls import controls_frame, print_controls
    from experiments.report.controls_page import render_controls_page
    from experiments.report.sample_detail import parse_settings
    from experiments.results.loaded_run import load_run
    from experiments.results.run_view import view_run
    from experiments.stats.compare import BASELINE, compare
    from experiments.store.store import write_text
    from experiments.terminal.spinner import spinner

    if correct and correct not in CORRECTIONS:
        raise ConfigError(f"--correct is {' or '.join(CORRECTIONS)}, not '{correct}'.")
    setting = parse_settings(to or [], "--to")
    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        view = view_run(load_run(run, trust), metric or None, None if BASELINE in setting else setting)
    if view.unfinished:
        print(view.unfinished, file=sys.stderr)
    if view.mixed_versions:
        print(view.mixed_versions, file=sys.stderr)
    if view.is_sequential:
        raise ConfigError(f"{view.sequential_note} (icl report {run})")
    reference = setting or dict(view.to)
    if not reference:
        raise ConfigError("the run has a single arm: there is nothing to compare.")
    if controls:
        if not view.effects:
            raise ConfigError("--controls: the run has a single decoding.")
        print_controls(view, Console())
        table = controls_frame(view)
    else:
        table = compare(
            view.scores, reference, view.metric, correct=correct or view.correct, by=by or (), axes=view.axes
        )
        print_comparison(table, view, Console())
        print_answers(view, Console())
    if page is not None and not controls:
        raise ConfigError("--page needs --controls.")
    if page is not None:
        write_text(page, render_controls_page(view))
        print(f"wrote {page}")
    if csv is not None:
        write_text(csv, table.to_csv(index=False))
        print(f"wrote {csv}")
