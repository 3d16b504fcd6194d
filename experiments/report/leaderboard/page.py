"""The leaderboard as one self-contained page without a script, and as CSV."""

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from experiments.report.leaderboard.columns import Leaderboard, LeaderboardCell, LeaderboardColumn
from experiments.report.leaderboard.frontier import HEADS, FrontierTable
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.stats import formatting
from experiments.stats.arm_comparisons import ArmComparison
from experiments.stats.arms import short_control_name
from experiments.stats.strategy_verdicts import signed_gain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

MAX_COLUMNS = 5
"""The largest number of columns in one table of the page."""
SIGNS = {"beats": "▲", "reference_only": "△", "worse": "▼", "no_gain": "=", "undecided": "○", "refused": "!"}


@dataclass(frozen=True)
class PageCell:
    """One method in one column, as text.

    Attributes:
        standing: The verdict, which chooses the color.
        sign: Its sign.
        words: Its words.
        score: The score with its interval.
        lines: (what the gain is over, the gain with its interval).
    """

    standing: str
    sign: str
    words: str
    score: str
    lines: tuple[tuple[str, str], ...]


def render_leaderboard(board: Leaderboard, frontiers: "Sequence[FrontierTable]", refusals: "Sequence[str]") -> str:
    """The page.

    Args:
        board: The leaderboard.
        frontiers: The tables and figures of captions.
        refusals: Why runs have none.
    """
    from markupsafe import Markup

    style = read_asset("report.css") + read_asset("leaderboard.css")
    return load_template("leaderboard.html.j2").render(
        **vars(formatting),
        board=board,
        counts=[(name, _counts(board, name)) for name in board.methods],
        blocks=[_block(board, board.columns[i : i + MAX_COLUMNS]) for i in range(0, len(board.columns), MAX_COLUMNS)],
        frontiers=[(one, Markup(one.svg), [(Markup(svg), name) for svg, name in one.key]) for one in frontiers],
        frontier_heads=HEADS,
        refusals=refusals,
        several_runs=len({column.path for column in board.columns}) > 1,
        style=Markup(style),
        style_hash=policy_digest(style),
    )


def leaderboard_frame(board: Leaderboard) -> "DataFrame":
    """One row per column and method, with numbers. Gains are signed so that above 0 is better."""
    import pandas as pd

    rows = []
    for column in board.columns:
        for name, cell in column.cells.items():
            row: dict[str, Any] = {
                "run": column.run,
                "model": column.model,
                "subject": column.subject,
                "metric": column.metric,
            }
            row |= {"method": name, "score": cell.score.mean, "low": cell.score.low, "high": cell.score.high}
            if cell.verdict:
                row |= {"verdict": cell.verdict.words, "controls": cell.verdict.num_controls}
                row |= {"reference": column.reference, **_numbers("gain", cell.verdict.gain)}
                if cell.verdict.strongest:
                    strongest = cell.verdict.strongest
                    row |= {"strongest": strongest.against, **_numbers("gain_over_strongest", strongest)}
            row |= {"forwards_per_token": cell.forwards, "tokens": cell.length, "seconds": cell.seconds}
            rows.append(row)
    return pd.DataFrame(rows)


def _block(board: Leaderboard, columns: "Sequence[LeaderboardColumn]") -> dict[str, Any]:
    """One table of verdicts and one of costs: some columns, and the methods that they have."""
    methods = [name for name in board.methods if any(name in column.cells for column in columns)]
    references = dict.fromkeys(column.reference for column in columns)
    return {
        "columns": columns,
        "reference": " / ".join(references),
        "references": [_score(column.cells.get(column.reference)) for column in columns],
        "rows": [(name, [_page_cell(column.cells.get(name)) for column in columns]) for name in methods],
        "costs": [(name, [_cost(column, name) for column in columns]) for name in (*references, *methods)],
    }


def _numbers(name: str, one: ArmComparison) -> dict[str, float]:
    if one.result is None:
        return {}
    low, high = _gain_interval(one)
    return {name: signed_gain(one), f"{name}_low": low, f"{name}_high": high, f"{name}_p": one.p}


def _gain_interval(one: ArmComparison) -> tuple[float, float]:
    assert one.result is not None
    low, high = one.result.low, one.result.high
    return (-high, -low) if one.better == "lower" else (low, high)


def _page_cell(cell: LeaderboardCell | None) -> PageCell | None:
    if cell is None or cell.verdict is None:
        return None
    verdict = cell.verdict
    lines = [(verdict.gain.against, _gain(verdict.gain))]
    if verdict.strongest:
        lines.append((short_control_name(verdict.strongest.against, verdict.gain.arm), _gain(verdict.strongest)))
    return PageCell(verdict.standing, SIGNS[verdict.standing], verdict.words, _score(cell), tuple(lines))


def _gain(one: ArmComparison) -> str:
    if one.result is None:
        return "not compared"
    if one.by_construction:
        return "the same"
    low, high = _gain_interval(one)
    return f"{formatting.format_signed(signed_gain(one))} {formatting.format_interval(low, high)}"


def _score(cell: LeaderboardCell | None) -> str:
    return formatting.format_estimate(cell.score.mean, cell.score.low, cell.score.high) if cell else "–"


def _counts(board: Leaderboard, name: str) -> tuple[int, int, int, int, int]:
    """(columns where it beats its controls, brings no gain, is worse, anything else, all)."""
    cells = [column.cells[name].verdict for column in board.columns if name in column.cells]
    standings = [verdict.standing for verdict in cells if verdict]
    rest = sum(standings.count(one) for one in ("undecided", "reference_only", "refused"))
    return standings.count("beats"), standings.count("no_gain"), standings.count("worse"), rest, len(standings)


def _cost(column: LeaderboardColumn, name: str) -> str:
    """'2.0 × 13 = 26 forwards, 0.12 s (× 2.1)'; '' without a trace."""
    cell, base = column.cells.get(name), column.cells.get(column.reference)
    if cell is None:
        return "–"
    if isnan(cell.forwards):
        return ""
    forwards = cell.forwards * cell.length
    words = f"{forwards:.3g}"
    if base and base is not cell and base.forwards * base.length > 0:
        words += f" (× {forwards / (base.forwards * base.length):.2g})"
    return words + (f", {cell.seconds:.2g} s" if not isnan(cell.seconds) else "")
