"""The leaderboard as one self-contained page without a script, and as a table of numbers."""

from collections.abc import Iterator, Sequence
from math import isnan, nan
from typing import Any

from experiments.analyses.caption_frontier import CaptionGroup, caption_groups
from experiments.report.figure import Figure, Line, encode_lines
from experiments.report.leaderboard_columns import Leaderboard, LeaderboardColumn
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.report.section import Column, Section
from experiments.results.run_view import RunView
from experiments.stats import (
    ArmComparison,
    describe_arm,
    format_count,
    format_share,
    is_wide,
    short_control_name,
    signed_gain,
)
from icl import DataFrame, ICLError, alt, canonical_digest, pd

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
        Column("unread", kind="share", says="outputs that cannot be read with certainty"),
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


def leaderboard_frame(board: Leaderboard) -> DataFrame:
    """One row per column and method, with numbers. Gains are signed so that above 0 is better."""
    rows = []
    for column in board.columns:
        base = column.cells.get(column.reference)
        for name, cell in column.cells.items():
            row: dict[str, Any] = {"run": column.run, "model": column.model, "subject": column.subject}
            row |= {"metric": column.metric, "method": name, "score": cell.score.mean}
            row |= {"low": cell.score.low, "high": cell.score.high}
            if bounds := cell.bounds:
                row |= bounds.columns
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
    gain = nan if one.bounds and is_wide(one.bounds.unread) else signed_gain(one)
    return {name: gain, f"{name}_low": low, f"{name}_high": high, f"{name}_p": one.p}


NOTE = (
    "CHAIR_I is the share of object mentions that are not in the image; lower is better. Recall is the share of the "
    "image's objects that captions name. Dashed: the lowest CHAIR_I of trivial baselines, the reference's captions "
    "cut after k words or without a random part of their mentions. A method hallucinates less only if it is below "
    "that line. At equal length: CHAIR_I minus the reference's, both captions of a pair cut to the shorter one's "
    "words. Intervals are not corrected, and no verdict rests on them. Small points: controls."
)
COLUMNS = (
    Column("decoding", "method"),
    Column("length", "words", "count"),
    Column("recall", kind="share"),
    Column("chair", "CHAIR_I", "share"),
    Column("at_length", "at equal length", "signed"),
    Column("low", "95 % interval", "interval"),
    Column("beyond", "beyond the frontier", "signed"),
    Column("beyond_low", "95 % interval", "interval", ("beyond_low", "beyond_high")),
)


def frontier_tables(view: RunView) -> tuple[list[Section], str]:
    """The sections of a run, and the reason if there are none.

    A run without CHAIR has neither. The task is built again, because samples do not store the objects of images.
    """
    if not any(name.startswith("chair_") and view.scores[name].notna().any() for name in view.metrics):
        return [], ""
    try:
        groups = caption_groups(view)
    except ICLError as error:
        return [], f"{view.name}: no frontier. {error}"
    return [_section(view, group, number) for number, group in enumerate(groups)], ""


def _section(view: RunView, group: CaptionGroup, number: int) -> Section:
    frame = pd.DataFrame(group.rows)
    frame["control"] = frame["decoding"].isin(view.control_names)
    frame = frame.sort_values("control", kind="stable", key=lambda own: own * 2 + (frame["decoding"] != view.reference))
    setting = {key: value for key, value in group.rows[0].items() if key in view.axes and key != "decoding"}
    return Section(
        f"frontier-{view.name}-{number}",
        f"Hallucination and recall · {view.name}: {describe_arm(setting)}",
        frame=frame,
        columns=COLUMNS, faint="control", notes=[NOTE], draw=lambda rows: draw_frontier(rows, group.curve()),
    )  # fmt: skip


def draw_frontier(rows: DataFrame, curve: "list[tuple[float, float]]") -> Figure:
    """CHAIR_I against recall. Controls are small gray points."""
    data = rows[["decoding", "control", "recall", "chair"]].dropna().rename(columns={"decoding": "line"})
    data["says"] = [
        f"{name}: recall {recall:.3f}, CHAIR_I {chair:.3f}"
        for name, recall, chair in data[["line", "recall", "chair"]].itertuples(index=False)
    ]
    lines = {name: Line(number, number) for number, name in enumerate(data["line"][~data["control"]])}
    x = alt.X("recall:Q", title="recall of objects", scale=alt.Scale(zero=False))
    y = alt.Y("chair:Q", title="CHAIR_I", scale=alt.Scale(zero=False))
    frontier = alt.Chart(pd.DataFrame(curve, columns=["recall", "chair"])).mark_line(strokeDash=[4, 3], color="gray")
    points = alt.Chart(data[~data["control"]]).mark_point(filled=True, size=60)
    small = alt.Chart(data[data["control"]]).mark_point(size=12, color="gray")
    layers = [frontier.encode(x=x, y=y)] if curve else []
    layers += [small.encode(x=x, y=y, description="says:N")] if data["control"].any() else []
    layers.append(points.encode(x=x, y=y, description="says:N", **encode_lines(lines)))
    return Figure({"": alt.layer(*layers).properties(width=330, height=215)}, lines)


def distinct_runs(views: Sequence[RunView]) -> tuple[list[RunView], list[str]]:
    """(each run once, a sentence on each repeated one). Runs with equal cells and answers are one run."""
    first: dict[str, RunView] = {}
    repeated = []
    for view in views:
        same = first.setdefault(_answers_digest(view), view)
        if same is not view:
            repeated.append(f"{view.path} has the same cells and answers as {same.path}: it counts once.")
    return list(first.values()), repeated


def _answers_digest(view: RunView) -> str:
    columns = (view.frame[name].astype(str) for name in ("cell", "query", "output"))
    return canonical_digest(sorted(zip(*columns, strict=True)))
