"""Compare every arm of a run with its reference in pairs: difference, interval, p and corrected p."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.trust_option import Trust

if TYPE_CHECKING:
    from experiments.results.run_view import RunView

from icl.errors import ConfigError


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN]", help="a run directory, or two of them", show_default=False)
    ],
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="the reference: decoding=greedy, shots=0,retriever=random, or baseline=vote; by default the config's"
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config")] = "",
    by: Annotated[
        list[str] | None,
        typer.Option(help="an axis, within whose values p is corrected; or a column of the data, such as category"),
    ] = None,
    correct: Annotated[str, typer.Option(help="holm or none; by default that of the config")] = "",
    controls: Annotated[
        bool, typer.Option("--controls", help="the effect of each decoding next to its controls, with a verdict")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="with --controls: a Markdown file to write it to")] = None,
    csv: Annotated[Path | None, typer.Option(help="a CSV file to write the table to")] = None,
    trust: Trust = False,
) -> None:
    """Arms are paired by query and seed. Arms with other queries or seeds than their reference are refused.

    Two runs: the arms of the second against those of the first, and which settings and versions differ.

    With a column of the data there is a row for each of its values, p is corrected over all rows, and a test says
    whether the differences depend on the column.

    `icl compare runs/x --to decoding=greedy --by task`; `icl compare runs/x --by category`; `icl compare runs/x runs/y`
    """
    from rich.console import Console

    from experiments.config.keys import CORRECTIONS
    from experiments.report.answer_section import print_answers
    from experiments.report.by_section import print_interactions
    from experiments.report.comparison import print_comparison
    from experiments.report.controls import controls_frame, print_controls
    from experiments.report.controls_page import render_controls_page
    from experiments.report.sample_detail import parse_settings
    from experiments.results.column_effects import column_effects
    from experiments.results.data_columns import split_view
    from experiments.stats.compare import BASELINE, compare
    from experiments.store.store import write_csv, write_text
    from experiments.terminal.spinner import spinner

    if correct and correct not in CORRECTIONS:
        raise ConfigError(f"--correct is {' or '.join(CORRECTIONS)}, not '{correct}'.")
    if page is not None and not controls:
        raise ConfigError("--page needs --controls.")
    setting = parse_settings(to or [], "--to")
    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        view, notes = _read(runs, metric, None if BASELINE in setting else setting, trust)
    for note in notes:
        print(note)
    for warning in filter(None, (view.unfinished, view.mixed_versions)):
        print(warning, file=sys.stderr)
    if view.is_sequential:
        raise ConfigError(f"{view.sequential_note} (icl report {view.path})")
    reference = setting or dict(view.to)
    if not reference:
        raise ConfigError("the run has a single arm: there is nothing to compare.")
    if controls:
        if not view.effects:
            raise ConfigError("--controls: the run has a single decoding.")
        print_controls(view, Console())
        table = controls_frame(view)
    else:
        columns = [name for name in by or () if name not in view.axes]
        parts = split_view(view, columns) if columns else view
        axes = [name for name in by or () if name in view.axes]
        table = compare(parts.scores, reference, view.metric, correct=correct or view.correct, by=axes, axes=parts.axes)
        print_comparison(table, parts, Console())
        effects = [column_effects(view, name) for name in columns if BASELINE not in setting]
        print_interactions(effects, Console())
        if len(runs) == 1:
            print_answers(view, Console())
    if page is not None:
        write_text(page, render_controls_page(view))
        print(f"wrote {page}")
    if csv is not None:
        write_csv(csv, table)
        print(f"wrote {csv}")


def _read(
    runs: "list[Path]", metric: str, to: "dict[str, str] | None", trust: bool
) -> "tuple[RunView, tuple[str, ...]]":
    """(the view of one run, or of two paired ones, sentences on what differs between two)."""
    from experiments.results.loaded_run import load_run
    from experiments.results.paired_runs import pair_runs
    from experiments.results.view_run import NO_REFERENCE, view_run

    if len(runs) > 2:
        raise ConfigError(f"icl compare takes one run or two, not {len(runs)}. `icl merge ALL RUN ...` joins several.")
    if len(runs) == 1:
        return view_run(load_run(runs[0], trust), metric or None, to), ()
    if to:
        raise ConfigError("--to: the first of two runs is the reference. Leave it out.")
    first = view_run(load_run(runs[0], trust), metric or None, NO_REFERENCE)
    paired = pair_runs(first, view_run(load_run(runs[1], trust), first.metric, NO_REFERENCE))
    return paired.view, paired.notes
