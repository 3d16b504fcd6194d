"""Compare decoding methods with their controls over several runs: one page of verdicts, frontiers and costs."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from experiments.stats.strategy_verdicts import DEFAULT_MARGIN


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run directories", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="the folder of the page and its CSV file")] = Path("leaderboard"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="a metric; repeatable; a task has the first that scores it, by default CHAIR, else the config's"
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column of the data, such as category; repeatable", show_default=False),
    ] = None,
    margin: Annotated[float, typer.Option(help="the smallest gain that counts", min=0.0, max=1.0)] = DEFAULT_MARGIN,
    trust: Trust = False,
) -> None:
    """Columns are the models, tasks and settings of all runs. To beat its controls, a method must beat each of them.

    With a column of the data, each of its values has a column of the leaderboard, and p is corrected over all of them.

    `icl leaderboard runs/llava runs/qwen --out leaderboard`; `icl leaderboard runs/pope --by category`
    """
    from experiments.report.leaderboard.columns import collect_leaderboard, split_by_columns
    from experiments.report.leaderboard.frontier import frontier_tables
    from experiments.report.leaderboard.page import leaderboard_frame, render_leaderboard
    from experiments.report.leaderboard.repeated_runs import distinct_runs
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.store.store import report_write_errors, write_csv, write_text
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        views, repeated = distinct_runs([view_run(load_run(run, trust)) for run in runs])
        report_progress("comparing", 0, 0)
        views = [split_by_columns(view, by) for view in views] if by else views
        board = collect_leaderboard(views, metric or (), margin)
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
