"""Scores: the mean of each arm by number of shots, with the vote of the same demonstrations; gains over 0 shots."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from math import nan
from typing import Any

from experiments.config.keys import DEMONSTRATION_AXES
from experiments.report.figure import RANGE, Figure, Line, curve_chart, dot_chart
from experiments.report.section import Column, Section
from experiments.report.sections.differences import are_controls, differences_or_reason
from experiments.results.run_view import RunView
from experiments.stats import estimate_arm, few_units_note, format_count, summarize_arms, summarize_curve, verdicts
from experiments.stats.arms import (
    NO_VALUE,
    axis_values,
    describe_arm,
    drop_constant_axes,
    find_baseline_column,
    iter_arms,
    varying_axes,
)
from experiments.stats.bounds import is_wide
from icl import DataFrame, pd

VOTE = "vote"
VOTE_AXES = ("retriever", "rerankers", "rerank_candidates", "transforms")
"""The axes that decide which demonstrations a prompt has, and their answers."""
MAX_LINES = 8
"""The largest number of lines of a panel."""


@lru_cache(maxsize=4)
def scores_section(view: RunView) -> Section:
    """The scores of all arms. Those of controls are hidden."""
    return _section(view, "scores", "Scores", _better(view))


def other_scores(view: RunView) -> "Iterator[Section]":
    """The same by each other metric that has values."""
    for metric in view.metrics:
        if metric != view.metric and view.scores[metric].notna().any():
            other = replace(view, metric=metric)
            made = _section(other, f"scores-{metric}", f"Scores by {metric}", set())
            yield replace(made, draw=None, folded=f"The same by {other.measure}")


def _section(view: RunView, name: str, title: str, better: set[tuple[Any, ...]]) -> Section:
    arms = summarize_arms(view.paired_scores, view.metric, view.axes)
    arms = arms.assign(
        control=are_controls(arms, view),
        better=[tuple(row) in better for row in arms[list(view.axes)].itertuples(index=False)],
    )
    frame = _ordered(pd.concat([arms.assign(vote=False), _votes(view)], ignore_index=True), view)
    zero = frame[frame["shots"] == 0]
    frame = drop_constant_axes(frame, [axis for axis in view.axes if axis not in view.row_axes])
    frame["faint"] = frame["control"].eq(True) | frame["vote"].eq(True)
    return Section(
        name, title, frame=frame,
        columns=[*map(Column, view.row_axes), Column("mean", "shots", "estimate", bold="better")],
        across="shots", parts="task", faint="faint", hidden="control",
        shared=[axis for axis in view.row_axes if axis in DEMONSTRATION_AXES and (zero[axis] == NO_VALUE).all()],
        draw=lambda visible: score_figure(visible, view), notes=list(_notes(view, frame)),
    )  # fmt: skip


def _notes(view: RunView, frame: DataFrame) -> "Iterator[str]":
    scored = view.paired_scores[view.paired_scores[view.metric].notna()]
    queries = sorted(set(scored.groupby("task")["query"].nunique()))
    size = " to ".join(f"{number:,}" for number in dict.fromkeys([queries[0], queries[-1]])) if queries else "0"
    what = f"{view.measure[0].upper()}{view.measure[1:]}: mean [95 % interval]"
    yield f"{what}; n = {size} queries × {format_count(view.seeds, 'seed')}."
    if frame["better"].eq(True).any():
        rows, _ = differences_or_reason(view)
        family = (
            f" (Holm over {rows['family'].max()} comparisons)" if rows is not None and view.correct != "none" else ""
        )
        yield f"Bold: better than {describe_arm(view.to)}, p ≤ .05{family}."
    if frame["vote"].any():
        yield "vote: the majority vote of the same demonstrations, without a model."
    if (frame["shots"] == 0).any() and frame["shots"].nunique() > 1:
        yield "0 shots is one setting, repeated in the row of each retriever." if "retriever" in view.row_axes else ""
    if "unread" in frame and frame["unread"].gt(0).any():
        share = f"up to {100 * frame['unread'].max():.1f} % of the outputs of an arm"
        yield f"Unread: {share}. Ranges and intervals count these outputs as wrong and as right."
    yield from view.label_notes
    if number := int(frame.loc[frame["control"].eq(True), "decoding"].nunique() if "decoding" in frame else 0):
        yield f"{format_count(number, 'control')} of strategies {'is' if number == 1 else 'are'} not shown."
    yield view.sequential_note if view.is_sequential else ""
    yield few_units_note(frame["clusters"].dropna().astype(int))


def _better(view: RunView) -> set[tuple[Any, ...]]:
    """The arms that are better than their reference after correction."""
    differences, _ = differences_or_reason(view)
    if differences is None:
        return set()
    better_rows = differences[[verdict == "better" for verdict in verdicts(differences)]]
    return {tuple(row) for row in better_rows[list(view.axes)].itertuples(index=False)}


def _ordered(frame: DataFrame, view: RunView) -> DataFrame:
    """The rows in the order of the config; the vote after the arms of its demonstrations."""
    keys = ["task", *view.row_axes]
    orders = {axis: {str(v): i for i, v in enumerate(axis_values(view.scores, axis))} for axis in keys}
    places = {f"_{axis}": frame[axis].astype(str).map(orders[axis]).fillna(len(frame)) for axis in keys}
    return frame.assign(**places).sort_values([*places, "shots"], kind="stable", ignore_index=True).drop(columns=places)


def _votes(view: RunView) -> DataFrame:
    """The vote of each choice of demonstrations. Transforms that do not change it, such as transforms of images, share
    one."""
    rows: list[dict[str, Any]] = []
    samples = view.paired_scores
    if column := find_baseline_column(samples, VOTE, view.metric):
        by = [
            axis
            for axis in ("task", "shots", *VOTE_AXES)
            if axis in samples and axis in (*view.row_axes, "task", "shots")
        ]
        voted = samples[samples[column].notna() & (samples["shots"] != 0)]
        for arm, own in iter_arms(voted.drop_duplicates(["query", "seed", *by]), by):
            rows.append({**arm, view.row_axes[-1]: VOTE, "vote": True, **vars(estimate_arm(own, column))})
    every = ["task", "shots", *view.row_axes]
    frame = pd.DataFrame(rows, columns=[*every, "vote", "mean", "low", "high", "clusters", "samples"])
    frame[list(view.row_axes)] = frame[list(view.row_axes)].astype(object).where(frame[list(view.row_axes)].notna(), "")
    if "transforms" not in frame:
        return frame
    keys = [axis for axis in every if axis != "transforms"]
    is_shared = frame.groupby(keys)["mean"].transform("nunique") == 1
    frame.loc[is_shared, "transforms"] = ""
    return frame.drop_duplicates([*every], ignore_index=True)


def score_figure(frame: DataFrame, view: RunView) -> Figure:
    """A panel per task: a line per setting against shots, or with one number of shots a dot per setting.

    Color is the choice of demonstrations, dash and mark the decoding. More than MAX_LINES lines are divided into a
    panel per value of the first axis.
    """
    axes = list(varying_axes(frame[~frame["vote"].eq(True)], view.row_axes)) or list(view.row_axes[-1:])
    data = frame.dropna(subset=["mean"]).copy()
    split = axes[0] if len(axes) > 1 and data.groupby("task")[axes[0]].nunique().max() > 1 and _many(data, axes) else ""
    own = [axis for axis in axes if axis != split]
    voters = [*(axis for axis in own if axis != view.row_axes[-1]), view.row_axes[-1]]
    is_vote = data["vote"].eq(True)
    data["line"] = [
        ", ".join(filter(None, (str(row[axis]) for axis in (voters if voted else own))))
        for row, voted in zip(data.to_dict("records"), is_vote, strict=True)
    ]
    data["says"] = [
        f"{row['line']}, {format_count(int(row['shots']), 'shot')}: {_mean(row)} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in data.to_dict("records")
    ]
    if "unread" in data:
        data.loc[data["unread"].map(is_wide), "mean"] = nan  # a bar from end to end, and no dot within
    lines = _lines(data, own)
    whole, panels = view.metric in view.accuracies, {}
    for (task, *value), rows in data.groupby(["task", *filter(None, [split])], sort=False):
        title = ": ".join(map(str, [task, *value]))
        points = rows[["shots", "line", "mean", "low", "high", "says", *(RANGE if "unread" in rows else ())]]
        if data["shots"].nunique() > 1:
            panels[title] = curve_chart(points, lines, view.measure, whole)
        else:
            panels[title] = dot_chart(points.assign(row=points["line"], line=""), {"": Line()}, view.measure, "", whole)
    return Figure(panels, lines if data["shots"].nunique() > 1 else {})


def _mean(row: Mapping[Any, Any]) -> str:
    wide = is_wide(row.get("unread", 0.0))
    return f"{row['mean_low']:.3f} to {row['mean_high']:.3f}" if wide else f"{row['mean']:.3f}"


def _many(data: DataFrame, axes: list[str]) -> bool:
    return bool(
        data[~data["vote"].eq(True)].groupby("task")[axes].apply(lambda own: len(own.drop_duplicates())).max()
        > MAX_LINES
    )


def _lines(data: DataFrame, axes: list[str]) -> dict[str, Line]:
    """The looks: a color for each value of all axes but the last, a dash for each of the last; one axis has colors."""
    first = data.drop_duplicates("line")
    colors: dict[str, int] = {}
    dashes: dict[str, int] = {}
    lines = {}
    for row in first.to_dict("records"):
        words = [str(row[axis]) for axis in axes]
        voted = row["vote"] == True  # noqa: E712  # NaN is not true
        place, last = (", ".join(words[:-1]), words[-1]) if len(axes) > 1 else (words[0], words[0])
        color = colors.setdefault(place, len(colors))
        dash = 0 if voted else dashes.setdefault(last, len(dashes))
        lines[str(row["line"])] = Line(color, dash, faint=voted)
    return lines


def curves_section(view: RunView) -> Section | None:
    """What demonstrations add over 0 shots, for each line of the figure."""
    visible = scores_section(view).select(controls=True).visible
    rows = []
    arms = visible[~visible["vote"].eq(True)].dropna(subset=["mean"])
    if "unread" in arms:
        arms = arms[~arms["unread"].map(is_wide)]
    for labels, own in arms.groupby(["task", *view.row_axes], sort=False):
        points = own.sort_values("shots")
        shots = [int(number) for number in points["shots"]]
        if len(shots) > 1 and shots[0] == 0:
            summary = summarize_curve(shots, [float(mean) for mean in points["mean"]], view.better)
            control = bool(points["control"].iloc[0])
            rows.append(
                {**dict(zip(["task", *view.row_axes], labels, strict=True)), **vars(summary), "control": control}
            )
    if not rows:
        return None
    columns = [
        *map(Column, view.row_axes),
        Column("gain", kind="signed", says="the score at the largest number of shots minus the score at 0"),
        Column("efficiency", kind="signed", says="the mean gain over all numbers of shots"),
        Column("headroom", kind="share", says="efficiency as a share of what 0 shots left to gain", spare=2),
        Column("peak", kind="share", says="the best score"),
        Column("peak_shots", "at shots", "count", says="the fewest shots with the best score"),
    ]
    return Section(
        "curves", "Gain over 0 shots", frame=pd.DataFrame(rows), columns=columns, parts="task", hidden="control",
        notes=["Summaries of the lines of the figure, without tests."], folded="Gain, efficiency and peak of each line",
    )  # fmt: skip
