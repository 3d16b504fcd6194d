"""What a person sees at the end of a run: the table, what it shows, and where the report is."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from experiments.report.tables import Row, TaskTable, task_tables
from experiments.report.view import Run, View, view
from experiments.stats.wording import counted, plus_minus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MARKS = {"better": "green", "worse": "red", "differs": "default", "open": "default", "unpaired": "yellow"}


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
    from rich.table import Table
    from rich.text import Text

    digits = 3 if _width(table, 3) <= width else 2
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for axis in table.axes:
        grid.add_column(axis, overflow="fold")
    for shots in table.shots:
        grid.add_column(counted(shots, "shot"), no_wrap=True)
    last: Sequence[str] = ()
    for row in table.lines:
        style = "dim" if row.baseline else ""
        labels = [
            "" if i + 1 < len(row.labels) and row.labels[: i + 1] == tuple(last)[: i + 1] else label
            for i, label in enumerate(row.labels)
        ]
        last = row.labels
        cells = [Text(_cell(row, s, digits), "bold" if table.is_best(row, s) else "") for s in table.shots]
        grid.add_row(*map(Text, labels), *cells, style=style)
    return grid


def _cell(row: Row, shots: int, digits: int) -> str:
    found = row.cells.get(shots)
    if found is None:
        return "" if row.partial else "–"
    return plus_minus(found.mean, found.low, found.high, digits)


def _width(table: TaskTable, digits: int) -> int:
    """Of the table as it will be printed; a column is as wide as its widest cell."""
    lines = table.lines
    labels = [max(len(axis), *(len(row.labels[i]) for row in lines)) for i, axis in enumerate(table.axes)]
    heads = [counted(shots, "shot") for shots in table.shots]
    cells = [
        max(len(head), *(len(_cell(row, shots, digits)) for row in lines))
        for head, shots in zip(heads, table.shots, strict=True)
    ]
    return sum(labels) + sum(cells) + 2 * (len(labels) + len(cells))


def _notes(seen: View) -> list[str]:
    notes = []
    if seen.fixed:
        notes.append(", ".join(f"{axis} {value}" for axis, value in seen.fixed.items()))
    if any(row.baseline for table in task_tables(seen) for row in table.rows):
        notes.append("vote: what most of the same demonstrations answer, without a model")
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
