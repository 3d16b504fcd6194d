"""What a person sees at the end of a run: the table, what it shows, and where the report is."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from experiments.report.tables import Row, TaskTable, task_tables
from experiments.report.view import Run, View, view
from experiments.stats.wording import counted, few_units, plus_minus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MARKS = {"better": "green", "worse": "red", "differs": "default", "open": "default", "unpaired": "yellow"}
GAP = 2  # columns between two columns
WIDEST = 28  # a label that is wider folds


def show(run: Run | View, console: "Console") -> None:
    """Prints table, findings and the report's path. Raises StoreError for a run without samples."""
    seen = run if isinstance(run, View) else view(run)
    for table in task_tables(seen):
        console.print(_title(seen, table))
        console.print(_grid(table, console.width))
        console.print()
    for line in _notes(seen):
        console.print(line, style="dim")
    found = seen.findings
    if found:
        console.print(
            "[bold]What it shows[/bold]  "
            "[dim]difference \\[95 % interval], p after Holm over the comparisons of a topic, n[/dim]",
            highlight=False,
        )
        console.print(_sentences(seen))
        console.print()
    report = seen.path / "report.html"
    told = f"report  {report}" if report.is_file() else f"report  not written yet: icl report {seen.path}"
    console.print(told, soft_wrap=True, highlight=False, markup=False)


def _title(seen: View, table: TaskTable) -> "RenderableType":
    from rich.text import Text

    seeds = f" x {table.seeds} seeds" if table.seeds > 1 else ""
    failed = f", {table.failed} failed" if table.failed else ""
    title, queries = Text(table.task, style="bold"), counted(table.queries, "query", "queries")
    return title.append(f"  {seen.measure}, 95 % interval as ± its half, or its ends; {queries}{seeds}{failed}", "dim")


def _grid(table: TaskTable, width: int) -> "RenderableType":
    """The rows; where the columns do not fit, fewer digits, closer intervals, then leading axes as headings."""
    from rich.console import Group
    from rich.text import Text

    looks = [Look(3, False, 0), *(Look(2, tight, n) for n in range(len(table.axes)) for tight in (False, True))]
    look = next((look for look in looks if sum(_widths(table, look)) <= width), looks[-1])
    if not look.headings:
        return _rows(table, table.lines, look)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in table.lines:
        groups.setdefault(tuple(row.labels[: look.headings]), []).append(row)
    parts: list[RenderableType] = []
    for heading, rows in groups.items():
        named = zip(table.axes, heading, strict=False)
        parts += [Text(", ".join(f"{axis} {label}" for axis, label in named), "bold"), _rows(table, rows, look)]
    return Group(*parts)


class Look(NamedTuple):
    """How a table is printed: digits of a share, intervals without spaces, axes that are headings of groups."""

    digits: int
    tight: bool
    headings: int


def _rows(table: TaskTable, lines: Sequence[Row], look: Look) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    widths = _widths(table, look)
    axes = table.axes[look.headings :]
    for axis, wide in zip(axes, widths, strict=False):
        grid.add_column(axis, overflow="fold", min_width=min(wide - GAP, WIDEST))
    for shots, wide in zip(table.shots, widths[len(axes) :], strict=True):
        grid.add_column(counted(shots, "shot"), no_wrap=True, min_width=wide - GAP)
    last: Sequence[str] = ()
    for row in lines:
        style = "dim" if row.baseline else ""
        own = row.labels[look.headings :]
        labels = [
            "" if i + 1 < len(own) and own[: i + 1] == tuple(last)[: i + 1] else label for i, label in enumerate(own)
        ]
        last = own
        cells = [Text(_cell(row, s, look), "bold" if table.is_best(row, s) else "") for s in table.shots]
        grid.add_row(*map(Text, labels), *cells, style=style)
    return grid


def _cell(row: Row, shots: int, look: Look) -> str:
    found = row.cells.get(shots)
    if found is None:
        return "" if row.partial else "–"
    told = plus_minus(found.mean, found.low, found.high, look.digits)
    if look.tight:
        for long, short in ((", ", ","), ("[.00,", "[0,"), (",1.00]", ",1]")):
            told = told.replace(long, short)
    return told


def _widths(table: TaskTable, look: Look) -> list[int]:
    """Of the columns as they will be printed, gaps included; a column is as wide as its widest cell."""
    lines = table.lines
    labels = [
        max(len(axis), *(len(row.labels[i]) for row in lines))
        for i, axis in enumerate(table.axes)
        if i >= look.headings
    ]
    cells = [max(len(counted(s, "shot")), *(len(_cell(row, s, look)) for row in lines)) for s in table.shots]
    return [wide + GAP for wide in (*labels, *cells)]


def _notes(seen: View) -> list[str]:
    notes = []
    if seen.fixed:
        notes.append(", ".join(f"{axis} {value}" for axis, value in seen.fixed.items() if value != "none"))
    if any(row.baseline for table in task_tables(seen) for row in table.rows):
        notes.append("vote: what most of the same demonstrations answer, without a model")
    if few := few_units(cell.clusters for t in task_tables(seen) for row in t.rows for cell in row.cells.values()):
        notes.append(few)
    if seen.unfinished:
        notes.append(seen.unfinished)
    if seen.failed:
        notes.append(f"{seen.failed:,} samples failed and are in no number above (icl show {seen.path} --failed)")
    return [*notes, ""] if notes else []


def _sentences(seen: View) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for topic, found in groupby(seen.findings, key=lambda f: f.topic):
        for i, one in enumerate(found):
            text = Text().append(f"{one.subject}: ", "bold").append(one.claim, MARKS[one.verdict])
            if one.numbers:
                text.append(f": {one.numbers}.")
            text.append(f" {one.more}" if one.more else "")
            grid.add_row(f"  {topic}" if i == 0 else "", text)
    return grid
