"""The table of one task as lines of a terminal of any width. No label is cut, and nothing is dropped.

If a column per axis does not fit, these steps follow in order: fewer digits; tighter intervals; axes with one value in
a line above the table; the first axes as headings of groups; labels on a line above their numbers. If groups would have
only a row or two, the usual setting is printed above, and a row names only what differs. If there are too many numbers
of shots, the table has several blocks.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from experiments.report.tables import ANY_VALUE, ScoreRow, TaskTable
from experiments.stats.formatting import format_count, format_estimate

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2
"""The number of spaces between two columns."""

MIN_LABEL_WIDTH = 14
"""The least width of a column of labels; narrower labels are printed above the numbers."""


class NumberFormat(NamedTuple):
    """The format of numbers: the digits of a share, and whether intervals have no spaces."""

    digits: int
    tight: bool


class ColumnWidths(NamedTuple):
    """The layout of a block.

    Attributes:
        left_out: The number of first axes without a column.
        labels: The widths of the label columns.
        numbers: The widths of the number columns.
        width: The width of the terminal.
    """

    left_out: int
    labels: Sequence[int]
    numbers: Sequence[int]
    width: int


NUMBER_FORMATS = (NumberFormat(3, False), NumberFormat(2, False), NumberFormat(2, True))


def format_score_table(table: TaskTable, width: int) -> "list[Text]":
    """The lines of the table, with its headings."""
    for look in NUMBER_FORMATS:
        if _width(table, look, table.axes) <= width:
            return list(_block(table, table.lines, look, width))
    slim, above = _without_constants(table)
    heading = _dim(above, width)
    for look in NUMBER_FORMATS:
        if _width(slim, look, slim.axes) <= width:
            return [*heading, *_block(slim, slim.lines, look, width)]
    deep = [n for n in range(1, len(slim.axes)) if 2 * len(_groups(slim, n)) <= len(slim.lines)]
    for n in deep:
        for look in NUMBER_FORMATS[1:]:
            if _width(slim, look, slim.axes[n:]) <= width:
                return [*heading, *_grouped(slim, n, look, width)]
    look = NUMBER_FORMATS[-1]
    if len(slim.axes) - 1 in deep:
        return [*heading, *_grouped(slim, len(slim.axes) - 1, look, width)]
    if len(slim.axes) == 1:
        return [*heading, *_block(slim, slim.lines, look, width)]
    joined, usual = _joined(slim)
    return [*_dim(", ".join(filter(None, (above, usual))), width, "usual: "), *_block(joined, joined.rows, look, width)]


def _without_constants(table: TaskTable) -> tuple[TaskTable, str]:
    """The table without axes that have one value (except the last), and those values in words."""
    arms = [row for row in table.rows if not row.baseline] or list(table.rows)
    last = len(table.axes) - 1
    places = [i for i in range(len(table.axes)) if i == last or len({row.labels[i] for row in arms}) > 1]
    constants = ", ".join(f"{axis} {arms[0].labels[i]}" for i, axis in enumerate(table.axes) if i not in places)

    def slim(labels: Sequence[str]) -> tuple[str, ...]:
        return tuple(labels[i] for i in places) if labels else ()

    rows = tuple(replace(row, labels=slim(row.labels), general=slim(row.general)) for row in table.rows)
    return replace(table, axes=slim(table.axes), rows=rows), constants


def _joined(table: TaskTable) -> tuple[TaskTable, str]:
    """The table with one column that names what is unusual in each row, and the usual setting in words."""
    lines = table.lines
    usual = [_commonest_label(row.labels[i] for row in lines if not row.baseline) for i in range(len(table.axes))]
    rows = []
    for row in lines:
        named = zip(table.axes, row.labels, usual, strict=True)
        label_text = ", ".join(f"{axis} {label}" for axis, label, common in named if label not in (common, ""))
        rows.append(replace(row, labels=(label_text.replace("decoding vote", "vote") or "as usual",), general=()))
    return (
        replace(table, axes=("what differs",), rows=tuple(rows)),
        ", ".join(f"{axis} {common}" for axis, common in zip(table.axes, usual, strict=True)),
    )


def _commonest_label(labels: Iterator[str]) -> str:
    counts = Counter(label for label in labels if label != ANY_VALUE)
    return counts.most_common(1)[0][0] if counts else ANY_VALUE


def _groups(table: TaskTable, n: int) -> list[tuple[tuple[str, ...], list[ScoreRow]]]:
    """The lines by the values of the first n axes."""
    groups: dict[tuple[str, ...], list[ScoreRow]] = {}
    for row in table.lines:
        groups.setdefault(tuple(row.labels[:n]), []).append(row)
    return list(groups.items())


def _grouped(table: TaskTable, n: int, look: NumberFormat, width: int) -> "Iterator[Text]":
    from rich.text import Text

    for labels, rows in _groups(table, n):
        heading = ", ".join(f"{axis} {label or ANY_VALUE}" for axis, label in zip(table.axes, labels, strict=False))
        yield from (Text(line, "bold") for line in _folded(heading, width))
        yield from _block(table, rows, look, width, n)


def _block(table: TaskTable, rows: Sequence[ScoreRow], look: NumberFormat, width: int, n: int = 0) -> "Iterator[Text]":
    """The rows below their heading, without the first n axes; in several blocks if the numbers are too wide."""
    axes, labels = table.axes[n:], [row.labels[n:] for row in rows]
    widths = [max(len(axis), *(len(own[i]) for own in labels)) + GAP for i, axis in enumerate(axes[:-1])]
    numbers = _number_widths(table, look)
    room = width - sum(widths)
    own = max(len(axes[-1]), *(len(each[-1]) for each in labels)) + GAP
    if own + sum(numbers) - GAP > room:
        fitting = [len(each[-1]) + GAP for each in labels if len(each[-1]) + GAP <= room - sum(numbers) + GAP]
        own = max([len(axes[-1]) + GAP, MIN_LABEL_WIDTH, *fitting])
    for shots in _split_blocks(table.shots, numbers, room - own + GAP):
        layout = ColumnWidths(n, [*widths, own], [numbers[table.shots.index(s)] for s in shots], width)
        yield from _rows(table, rows, look, layout, shots)


def _split_blocks(shots: Sequence[int], numbers: Sequence[int], room: int) -> list[list[int]]:
    """The numbers of shots in blocks that fit next to the labels."""
    blocks: list[list[int]] = [[]]
    used = 0
    for one, wide in zip(shots, numbers, strict=True):
        if blocks[-1] and used + wide > room:
            blocks.append([])
            used = 0
        blocks[-1].append(one)
        used += wide
    return blocks


def _rows(
    table: TaskTable, rows: Sequence[ScoreRow], look: NumberFormat, layout: ColumnWidths, shots: Sequence[int]
) -> "Iterator[Text]":
    from rich.text import Text

    n, label_widths, numbers, width = layout
    heads = [(axis, wide) for axis, wide in zip(table.axes[n:], label_widths, strict=True)]
    heads += [(format_count(s, "shot"), wide) for s, wide in zip(shots, numbers, strict=True)]
    yield Text("".join(head.ljust(wide) for head, wide in heads).rstrip(), "dim")
    last: Sequence[str] = ()
    for row in rows:
        if len(shots) < len(table.shots) and not set(shots) & set(row.cells):
            continue
        style, own = "dim" if row.baseline else "", row.labels[n:]
        cells = ["" if i + 1 < len(own) and own[: i + 1] == last[: i + 1] else label for i, label in enumerate(own)]
        last = own
        if len(cells[-1]) + GAP > label_widths[-1]:
            indent = "".join(label.ljust(wide) for label, wide in zip(cells[:-1], label_widths, strict=False))
            yield from (Text(line, style) for line in _folded(f"{indent}{cells[-1]}", width, " " * len(indent) + "  "))
            cells = [""] * len(cells)
        line = Text("".join(label.ljust(wide) for label, wide in zip(cells, label_widths, strict=True)), style)
        for one, wide in zip(shots, numbers, strict=True):
            line.append(_cell(row, one, look).ljust(wide), "bold" if table.is_best(row, one) else "")
        line.rstrip()
        yield line


def _cell(row: ScoreRow, shots: int, look: NumberFormat) -> str:
    estimate = row.cells.get(shots)
    if estimate is None:
        return "" if row.partial else "–"
    text = format_estimate(estimate.mean, estimate.low, estimate.high, look.digits)
    if look.tight:
        for long, short in ((", ", ","), ("[.00,", "[0,"), (",1.00]", ",1]")):
            text = text.replace(long, short)
    return text


def _number_widths(table: TaskTable, look: NumberFormat) -> list[int]:
    lines = table.lines
    return [max(len(format_count(s, "shot")), *(len(_cell(row, s, look)) for row in lines)) + GAP for s in table.shots]


def _width(table: TaskTable, look: NumberFormat, axes: Sequence[str]) -> int:
    """The width of a column per axis (of the last axes) and per number of shots."""
    left_out = len(table.axes) - len(axes)
    labels = [
        max(len(axis), *(len(row.labels[i + left_out]) for row in table.lines)) + GAP for i, axis in enumerate(axes)
    ]
    return sum(labels) + sum(_number_widths(table, look)) - GAP


def _dim(text: str, width: int, head: str = "") -> "list[Text]":
    from rich.text import Text

    return [Text(line, "dim") for line in _folded(f"{head}{text}", width, " " * len(head))] if text else []


def _folded(text: str, width: int, below: str = "  ") -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=below, break_on_hyphens=False, drop_whitespace=True)
