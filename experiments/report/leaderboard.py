"""The leaderboard as one self-contained page without a script, and as a table of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from experiments.analyses.caption_frontier import CaptionGroup, caption_groups
from experiments.report.figure import Figure, Line, encode_lines
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.report.section import Column, Section
from experiments.report.sections.costs import session_seconds
from experiments.results import RunView, cells_by_label, split_view
from experiments.stats import (
    DEFAULT_MARGIN,
    ArmComparison,
    Estimate,
    describe_arm,
    estimate_arm,
    format_count,
    format_share,
    is_wide,
    join_words,
    short_control_name,
    signed_gain,
    trace_means,
)
from experiments.stats.arms import NO_VALUE, axis_values, better_of, split_by_subject, varying_axes
from experiments.stats.bounds import ArmBounds, bound_arm
from experiments.stats.strategy_verdicts import ComparedSamples, MethodVerdict, judge_methods
from experiments.store.store import Store
from icl import ConfigError, DataFrame, ICLError, alt, canonical_digest, pd

# The columns of a leaderboard: one for each run, model, task and setting, with the verdict on every method.
#
# Captions are judged by CHAIR if the run has it, other tasks by the metric of the run's `compare`. A task without
# scores of that metric has the first one of the run that it has scores of. A metric without a good direction judges
# nothing.


CAPTION_METRICS = ("chair_corpus", "chair_i", "chair_s")
"""The metrics of captions, the published one first."""


@dataclass(frozen=True)
class LeaderboardCell:
    """One method in one column.

    Attributes:
        score: The mean score with its interval.
        bounds: The bounds of the mean score; None if every output is read.
        forwards: Forward passes per token of the answer, one per branch; NaN without traces.
        length: Tokens per answer.
        seconds: Estimated seconds per answer: the time of the run, divided in proportion to forward passes.
        verdict: None for the reference.
    """

    score: Estimate
    bounds: ArmBounds | None
    forwards: float
    length: float
    seconds: float
    verdict: MethodVerdict | None


@dataclass(frozen=True, eq=False)
class LeaderboardColumn:
    """One run, model, task and setting.

    Attributes:
        run: The name of the run.
        path: Its folder.
        subject: The task and the settings that vary, in words.
        model: The model; '' if it is in the subject.
        metric: The metric.
        measure: The metric in words.
        queries: The number of queries.
        seeds: The number of seeds.
        reference: The label of the reference.
        cells: The reference, then each method.
    """

    run: str
    path: Path
    subject: str
    model: str
    metric: str
    measure: str
    queries: int
    seeds: int
    reference: str
    cells: Mapping[str, LeaderboardCell]


@dataclass(frozen=True)
class Leaderboard:
    """The columns of a leaderboard with what its verdicts rest on.

    Attributes:
        columns: The columns.
        methods: The methods, best first: by the number of columns where they beat their controls, then by their
            mean gain over the strongest control.
        family: The number of comparisons that p is corrected for.
        margin: The smallest gain that counts.
        notes: What the reader must know about single runs.
    """

    columns: tuple[LeaderboardColumn, ...]
    methods: tuple[str, ...]
    family: int
    margin: float
    notes: tuple[str, ...]


def collect_leaderboard(
    views: Sequence[RunView], metrics: Sequence[str] = (), margin: float = DEFAULT_MARGIN
) -> Leaderboard:
    """The leaderboard of some runs.

    Args:
        views: The runs.
        metrics: The metrics in order of preference; by default CHAIR, then each run's own metric.
        margin: The smallest gain that counts.

    Raises:
        ConfigError: A run has no method other than its reference, is unfinished, ends early, or has no such metric.
    """
    for view in views:
        _check(view, metrics)
    parts = [(view, part) for view in views for part in _parts(view, metrics)]
    verdicts = judge_methods([part for _, part in parts], margin)
    placed = [
        (views.index(view), view.tasks.index(task), column)
        for (view, part), own in zip(parts, verdicts.columns, strict=True)
        for task, column in _columns(view, part, own)
    ]
    columns = [column for *_, column in sorted(placed, key=lambda one: one[:2])]
    notes = [f"{view.name}: {note}" for view in views for note in _notes(view)]
    return Leaderboard(tuple(columns), _ranked(columns), verdicts.family, margin, (*notes, *_label_notes(views)))


def split_by_columns(view: RunView, columns: Sequence[str]) -> RunView:
    """The run with columns of the data as further axes. Raises ConfigError, with the path of the run."""
    try:
        return split_view(view, columns)
    except ConfigError as error:
        raise ConfigError(f"{view.path}: {error}") from error


def _check(view: RunView, metrics: Sequence[str]) -> None:
    if view.is_sequential:
        raise ConfigError(f"{view.path}: {view.sequential_note}")
    names = set(view.scores["decoding"]) if "decoding" in view.scores else set()
    if not names - view.control_names - {view.reference}:
        raise ConfigError(
            f"{view.path}: the run has no decoding method beside its reference. Put methods into grid.decoding and set "
            "`controls: default`, as `icl ls configs decoding_controls` does."
        )
    if metrics and not any(name in view.metrics for name in metrics):
        raise ConfigError(f"{view.path}: no score {' or '.join(metrics)}. Scores: {', '.join(view.metrics)}.")


def _parts(view: RunView, metrics: Sequence[str]) -> Iterator[ComparedSamples]:
    """The samples of the run by the metric that compares them."""
    samples = view.scores.assign(**{axis: NO_VALUE for axis in ("retriever",) if axis not in view.scores})
    settings = [axis for axis in varying_axes(samples, view.axes) if axis not in ("shots", "retriever", "decoding")]
    left = list(view.tasks)
    for metric in metrics or dict.fromkeys((*CAPTION_METRICS, view.metric, *view.metrics)):
        if metric not in view.metrics or better_of(view.scores, metric) == "neither":
            continue
        counts = samples.groupby("task")[metric].count()
        scored = [task for task in left if counts.get(task, 0)]
        left = [task for task in left if task not in scored]
        if scored:
            own = samples[samples["task"].isin(scored)]
            better = better_of(view.scores, metric)
            yield ComparedSamples(own, settings, metric, better, view.reference, view.controls)


def _columns(
    view: RunView, part: ComparedSamples, verdicts: Mapping[tuple[str, str], MethodVerdict]
) -> Iterator[tuple[str, LeaderboardColumn]]:
    """(task, column) of each subject that has a method."""
    per_forward = _seconds_per_forward(view)
    lower = " (lower is better)" if part.better == "lower" else ""
    for subject, rows in split_by_subject(part.samples, part.settings):
        names = [
            str(name) for name in axis_values(rows, "decoding") if name == part.base or name not in view.control_names
        ]
        if set(names) <= {part.base}:
            continue
        cells = {
            name: _cell(view, rows[rows["decoding"] == name], part, per_forward, verdicts.get((subject, name)))
            for name in sorted(names, key=lambda name: name != part.base)
        }
        model = str(view.fixed.get("model", "")) if "model" not in part.settings else ""
        task = str(rows["task"].iloc[0])
        yield (
            task,
            LeaderboardColumn(
                view.name,
                view.path,
                subject if part.settings else task,
                model,
                part.metric,
                f"{part.metric}{' accuracy' if part.metric in view.accuracies else ''}{lower}",
                int(rows["query"].nunique()),
                int(rows["seed"].nunique()),
                part.base,
                cells,
            ),
        )


def _cell(
    view: RunView, rows: DataFrame, part: ComparedSamples, per_forward: float, verdict: MethodVerdict | None
) -> LeaderboardCell:
    means = trace_means(view.frame.loc[rows.index])
    seconds = means["forwards"] * means["length"] * per_forward
    score, bounds = estimate_arm(rows, part.metric), bound_arm(rows, part.metric)
    return LeaderboardCell(score, bounds, means["forwards"], means["length"], seconds, verdict)


def _seconds_per_forward(view: RunView) -> float:
    """The time of the run over the forward passes that its answers report; NaN if one is unknown."""
    if "usage" not in view.frame:
        return nan
    used = [use for use in view.frame["usage"] if isinstance(use, Mapping) and "forwards" in use]
    total, seconds = sum(use["forwards"] for use in used), session_seconds(view.info)
    return seconds / total if total and seconds and len(used) == len(view.frame) - view.failed else nan


def _notes(view: RunView) -> Iterator[str]:
    yield from filter(None, (view.unfinished, view.mixed_versions))
    if view.failed:
        yield f"{view.failed} samples failed. They are in no number."
    bare = [name for name in dict.fromkeys(view.scores["decoding"]) if name in _uncontrolled(view)]
    if bare:
        yield f"{join_words(list(map(str, bare)))}: no control was run, so only the reference is compared."


def _uncontrolled(view: RunView) -> set[str]:
    return {str(name) for name in view.scores["decoding"]} - set(view.controls) - view.control_names - {view.reference}


def _label_notes(views: Sequence[RunView]) -> Iterator[str]:
    """A note for each label that names different decodings in different runs."""
    nodes: dict[str, set[str]] = {}
    for view in views:
        for label, cell in cells_by_label(view.frame, "decoding", Store(view.path)).items():
            nodes.setdefault(label, set()).add(str(cell.get("decoding")))
    for label, different in nodes.items():
        if len(different) > 1:
            yield f"{label} has other parameters in one run than in another: its row mixes {len(different)} settings."


def _ranked(columns: Sequence[LeaderboardColumn]) -> tuple[str, ...]:
    names = dict.fromkeys(name for column in columns for name in column.cells if name != column.reference)

    def rank(name: str) -> tuple[float, float]:
        cells = [column.cells[name].verdict for column in columns if name in column.cells]
        verdicts = [verdict for verdict in cells if verdict is not None]
        gains = [signed_gain(verdict.strongest or verdict.gain) for verdict in verdicts]
        finite = [gain for gain in gains if not isnan(gain)]
        mean = sum(finite) / len(finite) if finite else float("-inf")
        return -sum(verdict.standing == "beats" for verdict in verdicts), -mean

    return tuple(sorted(names, key=rank))


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
