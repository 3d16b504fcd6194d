"""The run by a column of its data: scores of each value, and whether the effects differ between values."""

from collections.abc import Iterator

from experiments.report.section import Column, Section
from experiments.report.sections.differences import are_controls
from experiments.results import ColumnEffects, RunView, ScoreView, interactions_frame, is_significant, macro_averages
from experiments.stats import axis_values, format_count, summarize_arms, varying_axes
from icl import DataFrame, pd

TESTS = (
    "effect: the paired difference from the reference. contrast: the effect minus the one on all other values, with "
    "its 95 % interval. p: of the contrast, corrected over the values (max-T, sign flips of clusters). p any: that no "
    "effect differs between the values. Bold: both are at most .05."
)
MAX_VALUES = 8
"""The largest number of values that are columns; more of them are rows."""


def by_sections(view: RunView) -> Iterator[Section]:
    """For each column: the scores of its values, then the effects in each of them."""
    for one in view.by_column:
        if one.view is None:
            yield Section(f"by-{one.name}", f"By {one.name}", notes=[f"{one.refused[0].upper()}{one.refused[1:]}"])
            continue
        yield _scores(view, one, one.view)
        frame = interactions_frame(one)
        if len(frame) and frame["p_corrected"].notna().any():
            yield _effects(frame, one, one.view)
        elif one.refused:
            yield Section(f"effects-{one.name}", f"Effects by {one.name}", notes=[one.refused])


def _scores(view: RunView, one: ColumnEffects, split: ScoreView) -> Section:
    parts = summarize_arms(split.paired_scores, view.metric, [*view.axes, one.name])
    whole = summarize_arms(view.paired_scores, view.metric, view.axes).assign(**{one.name: "all"})
    macro = pd.DataFrame(
        [
            {**arm, **vars(estimate), **(bounds.columns if bounds else {}), one.name: "macro"}
            for arm, estimate, bounds in macro_averages(one)
        ]
    )
    frame = pd.concat([parts, whole, macro], ignore_index=True)
    sizes = split.paired_scores.drop_duplicates([one.name, "task", "query"])[one.name].value_counts()
    frame[one.name] = [f"{value} ({sizes[value]:,})" if value in sizes else str(value) for value in frame[one.name]]
    order = {
        f"{value} ({sizes[value]:,})": place
        for place, value in enumerate(axis_values(split.scores, one.name))
        if value in sizes
    }
    frame = frame.sort_values(one.name, kind="stable", key=lambda names: names.map(order).fillna(len(order)))
    frame["control"] = are_controls(frame, view)
    many = len(sizes) > MAX_VALUES
    labels = [*(varying_axes(frame, (*view.row_axes, "shots")) or view.row_axes[-1:]), *([one.name] if many else [])]
    notes = [
        f"{view.measure} by {one.name} (number of queries): mean [95 % interval]. macro: the mean over the values.",
        one.note,
    ]
    return Section(
        f"by-{one.name}", f"By {one.name}", frame=frame,
        columns=[*map(Column, labels), Column("mean", "score" if many else "", "estimate")],
        across="" if many else one.name, parts="task", notes=notes, hidden="control",
        folded=f"{format_count(len(sizes), 'value')} of {one.name}" if many else "",
    )  # fmt: skip


def _effects(frame: DataFrame, one: ColumnEffects, split: ScoreView) -> Section:
    tested = frame[frame["p_corrected"].notna()].copy()
    tested["sure"] = [is_significant(row) for row in tested.to_dict("records")]
    number = int(tested["sure"].sum())
    tested["aside"] = ~tested["sure"] if number and len(tested) > 3 * MAX_VALUES else False
    labels = [axis for axis in varying_axes(tested, [a for a in split.axes if a in tested]) if axis != one.name]
    columns = [
        *map(Column, [*labels, one.name]),
        Column("difference", "effect", "signed"),
        Column("contrast", kind="signed", bold="sure"),
        Column("low", "95 % interval", "interval"),
        Column("p_value", "p", "p"),
        Column("p_corrected", "p any", "p", spare=1),
        Column("pairs", kind="count", spare=2),
    ]
    left = "Contrasts that are not distinguishable from 0 are in the CSV file." if tested["aside"].any() else ""
    return Section(
        f"effects-{one.name}", f"Effects by {one.name}", frame=tested, columns=columns, hidden="aside",
        notes=[TESTS, left, one.refused],
        folded=f"{number or 'None'} of {format_count(len(tested), 'contrast')} differ{'s' * (number == 1)} from 0",
    )  # fmt: skip
