"""The table of `icl compare` in the terminal, for any width. No number is cut, and missing columns are named.

If the columns do not fit, the first axes become headings of groups of rows. If that is not sufficient, columns that
follow from others are dropped and named below the table. If a heading would have only a row or two, the usual setting
is printed above the table, and a heading names only what differs.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from experiments.config.keys import DEMONSTRATION_AXES
from experiments.report import statistical_tests
from experiments.results.run_view import RunView
from experiments.stats.arms import NO_VALUE, describe_arm
from experiments.stats.compare import verdicts
from experiments.stats.formatting import (
    few_units_note,
    format_count,
    format_interval,
    format_p_number,
    format_share,
    format_signed,
)

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

OPTIONAL_COLUMNS = ("p", "against", "score", "n")
"""Columns that are dropped in a narrow terminal, in this order: they follow from others, or are in the CSV."""
STYLES = {"better": "green", "worse": "red", "differs": "default", "open": "default"}
GAP = 2
SAME_BY_CONSTRUCTION = "same by construction"

Columns = Mapping[str, Sequence[str]]
"""The cells of each column by its heading, from left to right."""


def print_comparison(table: "DataFrame", view: RunView, console: "Console") -> None:
    """Prints one row per arm; the difference is colored if the corrected p is at most .05."""
    from rich.text import Text

    varying = [axis for axis in view.axes if table[axis].nunique() > 1]
    axes = varying or [axis for axis in view.to if axis in view.axes] or ["decoding"]
    corrected = table.attrs["correct"] == "holm" and bool((table["family"] > 1).any())
    counts = "down/up" if view.better == "neither" else "R→W/W→R"
    columns = _columns(table, axes, corrected, counts)
    headed, visible, left_out = _fitted(columns, axes, console.width)
    reference = ", ".join(dict.fromkeys(table["reference"]))
    if reference == ", ".join(map(str, view.to.values())):
        reference = describe_arm(view.to) or reference  # 8 becomes '8 shots'
    console.print(Text(f"{view.measure} against {reference}", "bold"))
    rows: list[Any] = table.to_dict("records")
    looks = [STYLES[verdict] for verdict in verdicts(table)]
    usual: dict[str, Any] = {}
    if len(headed) > 1 and 2 * len({describe_arm(row, headed) for row in rows}) > len(rows):
        usual, headed = {axis: _commonest(rows, axis) for axis in axes}, list(axes)
        visible = {name: cells for name, cells in visible.items() if name not in axes}
    groups = groupby(range(len(rows)), key=lambda i: _heading(rows[i], headed, usual))
    if usual:
        line = ", ".join(f"{axis} {value}" for axis, value in usual.items())
        _say(console, Text(_folded(f"usual: {line}; a row names only what differs", console.width, " " * 7), "dim"))
    _say(console, Text(_row(visible, axes, {name: name for name in visible}), "dim"))
    for heading, places in groups:
        if headed:
            _say(console, Text(_folded(heading, console.width), "bold"))
        for i in places:
            _say(console, Text(_row(visible, axes, {name: cells[i] for name, cells in visible.items()}), looks[i]))
    for line in _notes(table, view, corrected, left_out):
        console.print(line, style="dim", highlight=False)


def no_transitions_note(view: RunView) -> str:
    """Why there are no counts of answers that changed."""
    return f"no R→W/W→R: {view.metric} is a run-level metric, which does not judge single answers"


def _heading(row: Mapping[str, Any], headed: Sequence[str], usual: Mapping[str, Any]) -> str:
    """The values of some axes; with a usual setting, only those that differ from it."""
    if not usual:
        return describe_arm(row, headed)
    differs = [axis for axis in headed if row[axis] != usual[axis] and not _free(row, axis)]
    return ", ".join(f"{axis} {row[axis]}" for axis in differs) or "as usual"


def _commonest(rows: Sequence[Mapping[str, Any]], axis: str) -> Any:
    counts = Counter(row[axis] for row in rows if not _free(row, axis))
    return counts.most_common(1)[0][0] if counts else NO_VALUE


def _free(row: Mapping[str, Any], axis: str) -> bool:
    """Whether the axis cannot matter to an arm without demonstrations."""
    return row.get("shots") == 0 and axis in DEMONSTRATION_AXES and row[axis] == NO_VALUE


def _folded(text: str, width: int, below: str = "  ") -> str:
    return textwrap.fill(text, max(width, 20), subsequent_indent=below, break_on_hyphens=False)


def _columns(table: "DataFrame", axes: Sequence[str], corrected: bool, counts: str) -> dict[str, list[str]]:
    """The columns of the table. counts: the heading of changed samples. Pairs are a column if their number varies."""
    columns = {axis: [str(value) for value in table[axis]] for axis in axes}
    columns |= {
        "score": [format_share(v) for v in table["mean"]],
        "against": [format_share(v) for v in table["reference_mean"]],
    }
    columns["difference"] = [format_signed(v) for v in table["difference"]]
    ends = zip(table["low"], table["high"], table["by_construction"], strict=True)
    columns["95 % interval"] = [
        SAME_BY_CONSTRUCTION if same else format_interval(low, high) for low, high, same in ends
    ]
    columns["p"] = [format_p_number(v) for v in table["p"]]
    if corrected:
        columns["p Holm"] = [format_p_number(v) for v in table["p_corrected"]]
    if table["right_to_wrong"].notna().any():
        transitions = zip(table["right_to_wrong"], table["wrong_to_right"], strict=True)
        columns[counts] = [f"{worse}/{improved}" for worse, improved in transitions]
    if table["pairs"].nunique() > 1:
        columns["n"] = [f"{v:,}" for v in table["pairs"]]
    return columns


def _fitted(columns: Columns, axes: Sequence[str], width: int) -> tuple[list[str], dict[str, Sequence[str]], list[str]]:
    """(axes that become headings, columns of the rows, dropped columns).

    It drops as few columns as possible, then uses as few headings as possible. If even one axis next to the numbers is
    too wide, all axes are headings.
    """
    can = [name for name in OPTIONAL_COLUMNS if name in columns and (name != "p" or "p Holm" in columns)]
    layouts = [(out, headed) for out in range(len(can) + 1) for headed in range(len(axes))]
    above = [(out, len(axes)) for out in range(len(can) + 1)]
    for out, headed in (*layouts, *above):
        visible = {name: cells for name, cells in columns.items() if name not in (*can[:out], *axes[:headed])}
        if _width(visible) <= width:
            break
    return list(axes[:headed]), visible, can[:out]


def _row(columns: Columns, axes: Sequence[str], cells: Mapping[str, str]) -> str:
    parts = []
    for name, column in columns.items():
        size = max(len(name), *map(len, column))
        parts.append(cells[name].ljust(size) if name in axes else cells[name].rjust(size))
    return (" " * GAP).join(parts).rstrip()


def _width(columns: Columns) -> int:
    return sum(max(len(name), *map(len, cells)) + GAP for name, cells in columns.items()) - GAP


def _say(console: "Console", line: Any) -> None:
    console.print(line, soft_wrap=True)


def _notes(table: "DataFrame", view: RunView, corrected: bool, left_out: Sequence[str]) -> Iterator[str]:
    sizes = " or ".join(map(str, sorted(set(table["family"]))))
    tested = len(table) == sum(set(table["family"])) and len(set(table["family"])) == 1
    rows = (
        "the rows of this table"
        if tested
        else "the distinct comparisons of this table that are not equal by construction"
    )
    family = f"; Holm over {sizes} comparisons, {rows}" if corrected else ""
    test = statistical_tests.describe_tests(table["test"], statistical_tests.SHORT)
    units = " or ".join(f"{c:,}" for c in sorted(set(table["clusters"])))
    pairs = set(table["pairs"])
    each = (
        f"{format_count(pairs.pop(), 'pair')} of (query, seed) each" if len(pairs) == 1 else "n: pairs of (query, seed)"
    )
    yield f"{test}, {units} independent units{family}; {each}"
    if corrected:
        yield "intervals are corrected too: 0 is outside exactly if p Holm is at most .05"
    if table["by_construction"].any():
        yield f"{SAME_BY_CONSTRUCTION}: the arm always answers as its reference, so it is not tested"
    if not view.of_samples:
        yield no_transitions_note(view)
    if few := few_units_note(table["clusters"]):
        yield few
    if left_out:
        yield f"columns that do not fit: {', '.join(left_out)} (use a wider terminal or --csv FILE)"
