"""Write the report of a run, or one report of several runs; --as card for a results card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import By, To, Trust, view_of
from experiments.config.keys import MAX_NAME_LENGTH
from experiments.imports.merged_runs import describe_merge, merge_runs
from experiments.report import collect_leaderboard, split_by_columns, write_report
from experiments.report.leaderboard import distinct_runs, frontier_tables, leaderboard_frame, render_leaderboard
from experiments.results import loaded_run
from experiments.results.view_run import view_run
from experiments.sharing.card import card_text, make_card
from experiments.stats import DEFAULT_MARGIN, format_count
from experiments.store.store import refuse_links, report_write_errors, write_csv, write_json, write_text
from experiments.terminal.progress import spinner
from icl import ConfigError, StoreError, did_you_mean

KINDS = ("page", "card", "leaderboard")


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="run directories; several are merged", show_default=False)
    ],
    *,
    kind: Annotated[str, typer.Option("--as", help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}")] = KINDS[0],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="the metric; by default that of the config; several for a leaderboard", show_default=False),
    ] = None,
    to: To = None,
    by: By = None,
    per_cell: Annotated[int, typer.Option(help="the number of queries per task in the sample browser", min=0)] = 24,
    margin: Annotated[
        float, typer.Option(help="of a leaderboard: the smallest gain that counts", min=0.0, max=1.0)
    ] = DEFAULT_MARGIN,
    out: Annotated[
        Path | None,
        typer.Option(
            help="a folder: of the card (default: the run), the leaderboard, or the merged run (default: A+B)",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """One self-contained HTML file, its tables as CSV, its figures as SVG. A run in progress shows finished samples.

    Several runs that pair, with the same queries and seeds of each task, have one report. They are merged into a folder
    of their own, as by `icl import`, and stay as they are.

    --as leaderboard: one page of any runs with decoding methods and controls, their verdicts, frontiers and costs.
    Columns are the models, tasks and settings of all runs. A method beats its controls if it beats each of
    them. Each task uses the first --metric that scores it, by default CHAIR, else the config's metric. With --by, each
    value of the column has a column of the leaderboard, and p is corrected over all of them.

    --as card: card.json and card.md of one run: what was run, on what, scores with intervals, and digests of all
    samples. `icl check RUN` checks a run against its card.
    """

    if kind not in KINDS:
        raise ConfigError(f"--as is {', '.join(KINDS)}, not '{kind}'.{did_you_mean(kind, KINDS)}")
    if kind == "leaderboard":
        _write_leaderboard(runs, metric or [], by or [], margin, out or Path("leaderboard"), trust=trust)
        return
    if kind == "card":
        if len(runs) > 1:
            raise ConfigError("--as card: a card is that of one run.")
        _write_card(runs[0], out, trust)
        return
    if len(metric or ()) > 1:
        raise ConfigError("--metric: a report has one metric. Several are for --as leaderboard.")
    with spinner("reading") as report_progress:
        run, merged = _merge(runs, out)
        view = view_of(run, "".join(metric or ()), to, by, trust=trust)
        report_progress("writing", 0, 0)
        files = write_report(view, per_cell)
    for sentence in merged:
        print(f"merged  {sentence}")
    size = files.report.stat().st_size / 1e6
    print(f"report  {files.report} ({size:.1f} MB)")
    print(f"tables  {', '.join(map(str, files.tables))}")
    print(f"figures {', '.join(map(str, files.figures))}")


def _merge(runs: list[Path], out: Path | None) -> tuple[Path, list[str]]:
    """The run directory of the report, and sentences on the runs that were merged into it."""
    if len(runs) == 1:
        if out is not None:
            raise ConfigError(
                "--out is the folder of several runs that are merged. The report of one run is in its folder."
            )
        return runs[0], []

    name = "+".join(run.resolve().name for run in runs)[:MAX_NAME_LENGTH]
    first = runs[0] if runs[0].name else runs[0].resolve()  # "." has no name
    folder = out or first.parent / name
    try:
        return folder, list(describe_merge(merge_runs(folder, runs)))
    except StoreError as error:
        raise StoreError(f"{error} Runs that do not pair have one page with --as leaderboard.") from error


def _write_card(run: Path, out: Path | None, trust: bool) -> None:

    with spinner("reading"):
        loaded = loaded_run.load_run(run, trust)
        card = make_card(loaded)
    folder = out or loaded.path
    refuse_links(folder)
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "card.json", card)
    write_text(folder / "card.md", card_text(card))
    print(f"card    {folder / 'card.json'}, {folder / 'card.md'}")
    size = f"{format_count(card['samples'], 'sample')} in {format_count(len(card['cells']), 'cell')}"
    print(f"digest  {card['digest']} ({size})")


def _write_leaderboard(
    runs: Sequence[Path], metrics: Sequence[str], by: list[str], margin: float, out: Path, *, trust: bool
) -> None:

    with spinner("reading") as report_progress:
        views, repeated = distinct_runs([view_run(loaded_run.load_run(run, trust)) for run in runs])
        report_progress("comparing", 0, 0)
        views = [split_by_columns(view, by) for view in views] if by else views
        board = collect_leaderboard(views, metrics, margin)
        pairs = [frontier_tables(view) for view in views]
        tables, refusals = [one for own, _ in pairs for one in own], [reason for _, reason in pairs if reason]
        report_progress("writing", 0, 0)
        with report_write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        write_text(out / "leaderboard.html", render_leaderboard(board, tables, refusals))
        write_csv(out / "leaderboard.csv", leaderboard_frame(board))
    for sentence in repeated:
        print(sentence)
    for name in board.methods:
        cells = [column.cells[name].verdict for column in board.columns if name in column.cells]
        words = [cell.words for cell in cells if cell]
        print(f"{name}: {', '.join(f'{words.count(one)} x {one}' for one in dict.fromkeys(words))}")
    print(f"page    {out / 'leaderboard.html'}")
    print(f"table   {out / 'leaderboard.csv'}")
