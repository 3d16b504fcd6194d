"""Differences: each arm against its reference, in pairs, with the interval and p of the same test."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from experiments.report.section import Column, Section
from experiments.results import ColumnEffects, RunView, ScoreView, interactions_frame, is_significant, macro_averages
from experiments.stats import (
    UnpairedError,
    axis_values,
    describe_arm,
    drop_constant_axes,
    few_units_note,
    format_count,
    format_signed,
    is_wide,
    summarize_arms,
    varying_axes,
    verdicts,
)
from experiments.stats.compare import LABELS, compare
from experiments.stats.settled import LABELS_TEST
from icl import DataFrame, pd

TESTS = {
    frozenset({LABELS_TEST}): "labels of a sample of queries",
    frozenset({"mcnemar"}): "exact McNemar",
    frozenset({"randomization"}): "randomization (arms exchanged within units)",
    frozenset({"randomization", "mcnemar"}): "randomization (arms exchanged within units), McNemar where right/wrong",
}
MOVES = {"neither": ("down", "up"), "graded": ("worse", "better"), "accuracy": ("R→W", "W→R")}
"""The headings of the numbers of samples that move."""


def differences_section(view: RunView, frame: DataFrame | None = None) -> Section | None:
    """The differences of a view. frame: the differences of `compare`, if they are not the usual ones."""
    refused = ""
    if frame is None:
        frame, refused = differences_or_reason(view)
    if frame is None:
        return Section("differences", "Differences", notes=[refused]) if refused else None
    to = _reference(view, frame)
    corrected = frame.attrs["correct"] != "none" and bool((frame["family"] > 1).any())
    words, controls = verdicts(frame), are_controls(frame, view)
    differ = [word not in ("open", "undecided") for word in words]
    frame = _ranged(frame.assign(verdict=words, sure=differ, control=controls))
    tested, same = frame[~frame["by_construction"]], int(frame["by_construction"].sum())
    same_note = "the same as the reference by construction, not tested"
    same_note = f"{format_count(same, 'arm')}: {same_note}." if same else ""
    rows = tested if tested["control"].all() else tested[~tested["control"]]
    frame["aside"] = ~frame.index.isin(rows.index)
    frame = drop_constant_axes(frame, view.axes)
    axes = [axis for axis in view.axes if axis != "task" and rows[axis].nunique() > 1]
    if not len(tested):
        return Section("differences", f"Differences from {to}", frame=frame, notes=[same_note])
    arm = describe_arm(dict(rows.iloc[0]), [axis for axis in view.to if axis not in axes])
    family, number = " or ".join(map(str, sorted(set(tested["family"])))) if corrected else "", int(rows["sure"].sum())
    says = f"corrected for {family} comparisons, as p: 0 is outside exactly if p is at most .05" if corrected else ""
    columns = [
        *map(Column, axes or view.row_axes[-1:]),
        Column("mean", "score", "share", spare=2),
        Column("reference_mean", to, "share", spare=1),
        Column("difference", kind="signed", bold="sure", says="score minus the score of the reference, in pairs"),
        Column("difference", " ", "forest"),
        *([Column("range", kind="number"), Column("unread", kind="share")] if "range" in frame else []),
        Column("low", "95 % interval", "interval", says=says or "not corrected"),
        Column("p_corrected", "p", "p", says=f"Holm over {family} comparisons" if corrected else "not corrected"),
        *(
            Column(name, head, "count", spare=3)
            for name, head in zip(("right_to_wrong", "wrong_to_right"), MOVES[moves_of(view, tested)], strict=True)
        ),
        *([Column(LABELS, says="how many unread outputs are labeled")] if LABELS in frame else []),
    ]
    many = f"{number} of {format_count(len(rows), 'comparison')}" if number else f"None of {len(rows)} comparisons"
    arms = f"{arm or 'an arm'} with {to}"
    return Section(
        "differences", f"{arm or 'Differences'} against {to}: {view.measure}", frame=frame, columns=columns,
        notes=[_how(tested, family), same_note, *_what_is_missing(view, tested), undecided_note(words)], hidden="aside",
        faint="control", parts="task",
        folded=f"{many} of {arms} {'is' if number <= 1 else 'are'} distinguishable from 0",
    )  # fmt: skip


def _ranged(frame: DataFrame) -> DataFrame:
    """The frame with the range of each difference that has unread outputs; of many, no single number says anything."""
    if "unread" not in frame:
        return frame
    ends = frame[["difference_low", "difference_high"]].itertuples(index=False)
    ranges = [" to ".join(map(format_signed, own)) if own[0] != own[1] else "" for own in ends]
    wide = frame["unread"].map(is_wide)
    single = {name: frame[name].mask(wide) for name in ("mean", "reference_mean", "difference")}
    return frame.assign(range=ranges, **single)


def undecided_note(words: Iterable[str]) -> str:
    """What to do about undecided comparisons, or '' if there is none."""
    number = sum(word == "undecided" for word in words)
    return (
        f"{format_count(number, 'comparison')} undecided: the answer depends on outputs that could not be read. "
        "`icl label` settles it."
        if number
        else ""
    )


@lru_cache(maxsize=4)
def differences_or_reason(view: RunView) -> tuple[DataFrame | None, str]:
    """The `difference_frame`, and why there is none although arms could be compared; '' if nothing can be."""
    if view.is_sequential:
        return None, view.sequential_note
    try:
        return difference_frame(view), ""
    except UnpairedError as error:
        return None, str(error)


def difference_frame(view: RunView) -> DataFrame | None:
    """Each arm compared with its reference, or None if there is nothing to compare. Raises UnpairedError."""
    if not view.to or all(view.scores[axis].nunique() < 2 for axis in view.to):
        return None
    return compare(view.scores, view.to, view.metric, correct=view.correct, axes=view.axes)


def are_controls(frame: DataFrame, view: RunView) -> "list[bool]":
    """For each row, whether its decoding is a control, but neither a strategy with controls nor the reference."""
    names = {*view.control_names} - {*view.controls, str(view.to.get("decoding"))}
    return [name in names for name in frame["decoding"]] if "decoding" in frame else [False] * len(frame)


def moves_of(view: RunView, tested: DataFrame) -> str:
    """The key of MOVES."""
    if view.better == "neither":
        return "neither"
    return "accuracy" if set(tested["test"]) == {"mcnemar"} else "graded"


def _how(tested: DataFrame, family: str) -> str:
    """The test, its units and its family."""
    units = " or ".join(f"{number:,}" for number in sorted(set(tested["clusters"])))
    holm = f"; Holm over {family} comparisons corrects p and interval. Bold: 0 is outside" if family else ""
    pairs = sorted(set(tested["pairs"]))
    each = format_count(pairs[0], "pair") if len(pairs) == 1 else f"{pairs[0]:,} to {pairs[-1]:,} pairs"
    return f"{describe_tests(tested['test'])}, {units} independent units; {each} of query and seed{holm}."


def _what_is_missing(view: RunView, tested: DataFrame) -> list[str]:
    dropped = int(tested["dropped_pairs"].sum())
    return [
        f"{format_count(dropped, 'pair')} without both scores are left out." if dropped else "",
        "" if view.of_samples else no_moves_note(view),
        few_units_note(tested["clusters"]),
    ]


def no_moves_note(view: RunView) -> str:
    """Why a table has no numbers of samples that move."""
    return f"no R→W/W→R: {view.metric} is a run-level metric, which does not judge single answers"


def describe_tests(tests: Iterable[str]) -> str:
    """The names of a set of tests. A mix without a name of its own gets the names of its tests. Raises ValueError."""
    names = frozenset(tests)
    if names in TESTS:
        return TESTS[names]
    unknown = sorted(one for one in names if frozenset({one}) not in TESTS)
    if unknown or not names:
        raise ValueError(f"no words for the tests {unknown} of a comparison; known are {sorted(map(sorted, TESTS))}.")
    return "; ".join(TESTS[frozenset({one})] for one in sorted(names))


def _reference(view: RunView, frame: DataFrame) -> str:
    """The reference in words: of `compare`, which may be another one than the view's."""
    name = ", ".join(dict.fromkeys(frame["reference"]))
    return describe_arm(view.to) if name == ", ".join(map(str, view.to.values())) else name


# The run by a column of its data: scores of each value, and whether the effects differ between values.


EFFECT_TESTS = (
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
        notes=[EFFECT_TESTS, left, one.refused],
        folded=f"{number or 'None'} of {format_count(len(tested), 'contrast')} differ{'s' * (number == 1)} from 0",
    )  # fmt: skip
