"""The leaderboard as one self-contained page without a script, and as a table of numbers."""

from collections.abc import Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from experiments.report.leaderboard.columns import Leaderboard, LeaderboardColumn
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.report.section import Column, Section
from experiments.stats.arm_comparisons import ArmComparison
from experiments.stats.arms import short_control_name
from experiments.stats.formatting import format_count, format_share
from experiments.stats.strategy_verdicts import signed_gain

if TYPE_CHECKING:
    from pandas import DataFrame

COUNTED = {
    "beats": "beats its controls",
    "no_gain": "no gain",
    "worse": "worse",
    "undecided": "undecided",
    "reference_only": "undecided",
    "refused": "undecided",
}
OVER = "gain_over_strongest"
VERDICTS = (
    "A control is the same computation without the key idea of the method. A method that does not beat all of its "
    "controls has not shown that its idea is what helps. A gain above 0 is better, also where a lower score is better.",
    "Forwards: forward passes per answer, one for each token and branch; prefills are not counted. Seconds: the time "
    "of the run, divided among its answers in proportion to forward passes: an estimate, because arms share prompts "
    "and batches.",
)


def render_leaderboard(board: Leaderboard, frontiers: Sequence[Section], refusals: Sequence[str]) -> str:
    """The page.

    Args:
        board: The leaderboard.
        frontiers: The sections of captions.
        refusals: Why runs have no such sections.
    """
    from markupsafe import Markup

    style = read_asset("report.css") + read_asset("page.css")
    counts = [(len(board.methods), "method"), (len(board.columns), "column"), (board.family, "tested comparison")]
    return load_template("leaderboard.html.j2").render(
        subtitle=" · ".join(format_count(number, word) for number, word in counts),
        warnings=[*board.notes, *refusals],
        sections=[*leaderboard_sections(board), *frontiers],
        draw=lambda figure: [(title, Markup(svg)) for title, svg in figure.page()],
        family=f"{board.family:,}",
        margin=format_share(board.margin, 2),
        style=Markup(style),
        style_hash=policy_digest(style),
    )


def leaderboard_sections(board: Leaderboard) -> Iterator[Section]:
    """How often each method beats its controls, then its verdict in each column."""
    import pandas as pd

    frame = leaderboard_frame(board)
    verdicts = [cell.verdict for column in board.columns for cell in column.cells.values()]
    standing = pd.Series([COUNTED[one.standing] if one else "" for one in verdicts])
    judged = frame.assign(standing=standing)[standing != ""]
    counts = pd.crosstab(judged["method"], judged["standing"]).reindex(list(board.methods))
    counts = counts.reindex(columns=list(dict.fromkeys(COUNTED.values())), fill_value=0)
    counts = counts.assign(columns=counts.sum(axis=1)).reset_index(names="method")
    columns = [Column("method"), *(Column(name, kind="count") for name in counts.columns[1:])]
    yield Section("summary", "Does it beat its controls?", frame=counts, columns=columns)

    titles = [_title(column, board) for column in board.columns for _ in column.cells]
    frame = frame.assign(column=titles, faint=[one is None for one in verdicts])
    frame["sure"] = [bool(one and one.standing in ("beats", "worse")) for one in verdicts]
    columns = [
        Column("method"),
        Column("score", kind="estimate"),
        Column("gain", kind="signed", bold="sure", says="over the reference"),
        Column("gain_low", "95 % interval", "interval", ("gain_low", "gain_high")),
        Column("verdict", kind="number"),
        Column("strongest", "strongest control", "number", says="the control over which the gain is smallest"),
        Column(OVER, "gain over it", "signed"),
        Column(f"{OVER}_low", "95 % interval", "interval", (f"{OVER}_low", f"{OVER}_high")),
        Column("forwards_per_answer", "forwards", "count"),
        Column("of_reference", "× reference", "count"),
        Column("seconds", kind="count"),
    ]  # fmt: skip
    columns = [column for column in columns if column.name in frame]
    yield Section("verdicts", "Verdicts", frame=frame, columns=columns, parts="column", faint="faint", notes=VERDICTS)


def leaderboard_frame(board: Leaderboard) -> "DataFrame":
    """One row per column and method, with numbers. Gains are signed so that above 0 is better."""
    import pandas as pd

    rows = []
    for column in board.columns:
        base = column.cells.get(column.reference)
        for name, cell in column.cells.items():
            row: dict[str, Any] = {"run": column.run, "model": column.model, "subject": column.subject}
            row |= {"metric": column.metric, "method": name, "score": cell.score.mean}
            row |= {"low": cell.score.low, "high": cell.score.high}
            if cell.verdict:
                row |= {"verdict": cell.verdict.words, "controls": cell.verdict.num_controls}
                row |= {"reference": column.reference, **_numbers("gain", cell.verdict.gain)}
                if strongest := cell.verdict.strongest:
                    row |= {"strongest": short_control_name(strongest.against, name)}
                    row |= _numbers(OVER, strongest)
            row |= {"forwards_per_token": cell.forwards, "tokens": cell.length, "seconds": cell.seconds}
            row["forwards_per_answer"] = cell.forwards * cell.length
            if base and base.forwards * base.length > 0:
                row["of_reference"] = row["forwards_per_answer"] / (base.forwards * base.length)
            rows.append(row)
    return pd.DataFrame(rows)


def _title(column: LeaderboardColumn, board: Leaderboard) -> str:
    """'easy-vqa · tiny · lenient accuracy, 200 queries × 3 seeds'."""
    several = len({one.path for one in board.columns}) > 1
    seeds = f" × {column.seeds} seeds" if column.seeds > 1 else ""
    names = (column.subject, column.model, column.run if several else "", column.measure)
    return f"{' · '.join(filter(None, names))}, {format_count(column.queries, 'query', 'queries')}{seeds}"


def _numbers(name: str, one: ArmComparison) -> dict[str, float]:
    if one.result is None or isnan(signed_gain(one)):
        return {}
    ends = (one.result.low, one.result.high)
    low, high = (-ends[1], -ends[0]) if one.better == "lower" else ends
    return {name: signed_gain(one), f"{name}_low": low, f"{name}_high": high, f"{name}_p": one.p}
