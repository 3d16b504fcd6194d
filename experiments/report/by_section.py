"""A run by a column of its data: scores in each part beside all and macro average, and effects that differ.

The page has a section per column, `icl compare --by` the tests alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.config.keys import AXES
from experiments.results.column_effects import (
    ColumnEffects,
    interactions_frame,
    is_significant,
    macro_averages,
)
from experiments.results.run_view import RunView
from experiments.stats.arms import describe_arm, iter_arms, varying_axes
from experiments.stats.formatting import (
    format_count,
    format_estimate,
    format_interval,
    format_p_number,
    format_signed,
)
from experiments.stats.summary import estimate_arm

if TYPE_CHECKING:
    from rich.console import Console

TEST_NOTE = (
    "An effect: the paired difference from the reference. Contrast: the effect minus the one on all other values, with "
    "its 95 % interval. p value: of the contrast, corrected over the values (max-T, sign flips of "
    "clusters). p equal: that no effect differs between the values"
)
MAX_VALUE_COLUMNS = 12
"""With more values, the page has them as rows."""


@dataclass(frozen=True)
class BySection:
    """The tables of one column, as texts.

    Attributes:
        name: The name of the column.
        refused: Why there is no table or no test, or ''.
        note: A sentence on queries without a value, or ''.
        heads: The headings of the score table.
        labels: The number of its first columns that name the arm.
        rows: Its cells.
        test_heads: The headings of the table of effects.
        test_labels: The number of its first columns that name arm and value.
        tests: Its cells, and whether the contrast is significant.
        test_note: How the effects were tested.
    """

    name: str
    refused: str
    note: str
    heads: tuple[str, ...] = ()
    labels: int = 0
    rows: tuple[tuple[str, ...], ...] = ()
    test_heads: tuple[str, ...] = ()
    test_labels: int = 0
    tests: tuple[tuple[tuple[str, ...], bool], ...] = ()
    test_note: str = ""


def by_sections(view: RunView) -> list[BySection]:
    """A section for each column by which the run is reported."""
    return [_section(view, effects) for effects in view.by_column]


def print_interactions(effects: Sequence[ColumnEffects], console: "Console") -> None:
    """Prints the table of effects by the values of each column."""
    for one in effects:
        _print_interactions(one, console)


def _print_interactions(effects: ColumnEffects, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    heads, labels, rows, note = _tests(effects)
    console.print()
    console.print(Text(f"Does the difference depend on {effects.name}?", "bold"))
    for sentence in filter(None, (effects.refused, effects.note)):
        console.print(Text(sentence, "dim"))
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < labels else "right", no_wrap=i >= labels)
    for cells, significant in rows:
        table.add_row(*map(Text, cells), style="bold" if significant else "default")
    console.print(table)
    console.print(Text(f"{note}.", "dim"))


def _section(view: RunView, effects: ColumnEffects) -> BySection:
    if effects.view is None:
        return BySection(effects.name, f"{effects.refused[0].upper()}{effects.refused[1:]}", "")
    heads, labels, rows = _scores(view, effects)
    test_heads, test_labels, tests, note = _tests(effects)
    return BySection(
        effects.name, effects.refused, effects.note, heads, labels, rows, test_heads, test_labels, tests, note
    )


def _scores(view: RunView, effects: ColumnEffects) -> tuple[tuple[str, ...], int, tuple[tuple[str, ...], ...]]:
    """(headings, number of label columns, rows) of the scores by value."""
    assert effects.view is not None
    column, metric, split = effects.name, view.metric, effects.view.paired_scores
    axes = [axis for axis in ("task", *view.row_axes, "shots") if split[axis].nunique() > 1] or ["decoding"]
    averages = [(arm, average) for arm, average in macro_averages(effects)]
    values = effects.values
    parts = {
        (*(arm[axis] for axis in view.axes), arm[column]): rows for arm, rows in iter_arms(split, [*view.axes, column])
    }
    lines = []
    for arm, rows in iter_arms(view.paired_scores, view.axes):
        own = [parts.get((*(arm[axis] for axis in view.axes), value)) for value in values]
        cells = [_estimate(part, metric) for part in (*own, rows)]
        average = next((one for other, one in averages if other == arm), None)
        macro = "–" if average is None else format_estimate(average.mean, average.low, average.high)
        lines.append((*(str(arm[axis]) for axis in axes), *cells, macro))
    sizes = split.drop_duplicates([column, "task", "query"])[column].value_counts()
    names = [f"{value} ({sizes[value]:,})" for value in values]
    if len(values) > MAX_VALUE_COLUMNS:
        pivoted = tuple(
            (*line[: len(axes)], name, line[len(axes) + i])
            for line in lines
            for i, name in enumerate((*names, "all", "macro"))
        )
        return (*axes, column, "score"), len(axes) + 1, pivoted
    return (*axes, *names, "all", "macro"), len(axes), tuple(lines)


def _estimate(rows: Any, metric: str) -> str:
    if rows is None or not rows[metric].notna().any():
        return "–"
    estimate = estimate_arm(rows, metric)
    return format_estimate(estimate.mean, estimate.low, estimate.high)


def _tests(
    effects: ColumnEffects,
) -> tuple[tuple[str, ...], int, tuple[tuple[tuple[str, ...], bool], ...], str]:
    """(headings, number of label columns, rows with their significance, note) of the effects by value."""
    frame = interactions_frame(effects)
    frame = frame[frame["p_corrected"].notna()] if len(frame) else frame
    if not len(frame):
        return (), 0, (), ""
    axes = [*varying_axes(frame, [axis for axis in AXES if axis in frame])]
    arms = int(frame.groupby(axes, sort=False).ngroups) if axes else 1
    heads = (*axes, effects.name, "pairs", "effect", "contrast", "95 % interval", "p value", "p equal")
    rows: list[tuple[tuple[str, ...], bool]] = []
    above = ""
    records: list[Any] = frame.to_dict("records")
    for record in records:
        name = describe_arm(record, axes)
        labels = [str(record[axis]) if name != above or not rows else "" for axis in axes]
        cells = (
            *labels,
            str(record[effects.name]),
            f"{record['pairs']:,}",
            format_signed(record["difference"]),
            format_signed(record["contrast"]),
            format_interval(record["low"], record["high"]),
            format_p_number(record["p_value"]),
            format_p_number(record["p_corrected"]) if name != above or not rows else "",
        )
        rows.append((cells, is_significant(record)))
        above = name
    holm = f", Holm over {format_count(arms, 'arm')}" if arms > 1 else ""
    return heads, len(axes) + 1, tuple(rows), f"{TEST_NOTE}{holm}"
