"""The end of a run in the terminal: the table, the findings, and the path of the report."""

from itertools import groupby
from typing import TYPE_CHECKING

from experiments.report.score_table import format_score_table
from experiments.report.tables import TaskTable, task_tables
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from experiments.stats.findings import Finding
from experiments.stats.formatting import few_units_note, format_count

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from experiments.results.loaded_run import Run

MAX_SENTENCES = 8
"""The largest number of sentences of a topic: a grid of many strategies has hundreds."""
VERDICT_STYLES = {"better": "green", "worse": "red", "unpaired": "yellow"}


def print_summary(run: "Run | RunView", console: "Console") -> None:
    """Prints the table, the findings and the path of the report. Raises StoreError for a run without samples."""
    view = run if isinstance(run, RunView) else view_run(run)
    for table in task_tables(view):
        console.print(_title(view, table))
        for row in format_score_table(table, console.width):
            console.print(row, soft_wrap=True)
        console.print()
    for line in _notes(view):
        console.print(line, style="dim")
    findings = view.findings
    if findings:
        kind = (
            "p and \\[95 % interval] hold at any time, however often you look at the run"
            if view.is_sequential
            else "difference \\[95 % interval] and p, corrected over all sentences (Holm in a topic), n"
        )
        console.print(f"[bold]What it shows[/bold]  [dim]{kind}[/dim]", highlight=False)
        console.print(_sentences(view))
        console.print()
    if view.controls and not view.is_sequential:
        text = f"controls  icl compare {view.path} --controls"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    report = view.path / "report.html"
    text = f"report  {report}" if report.is_file() else f"report  not written yet: icl report {view.path}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _title(view: RunView, table: TaskTable) -> "RenderableType":
    from rich.text import Text

    seeds = f" x {table.seeds} seeds" if table.seeds > 1 else ""
    failed = f", {table.failed} failed" if table.failed else ""
    title, queries = Text(table.task, style="bold"), format_count(table.queries, "query", "queries")
    return title.append(
        f"  {view.measure}, 95 % interval (± half its width, or [low, high]); {queries}{seeds}{failed}", "dim"
    )


def _notes(view: RunView) -> list[str]:
    notes = []
    if view.fixed:
        notes.append(", ".join(f"{axis} {value}" for axis, value in view.fixed.items() if value != "none"))
    if any(row.baseline for table in task_tables(view) for row in table.rows):
        notes.append("vote: the majority vote of the same demonstrations, without a model")
    if few := few_units_note(cell.clusters for t in task_tables(view) for row in t.rows for cell in row.cells.values()):
        notes.append(few)
    if view.answer_notes:
        notes.append(f"{'; '.join(view.answer_notes)} (icl analyze {view.path} answer_forms)")
    if view.scores_note:
        notes.append(view.scores_note)
    if view.unfinished:
        notes.append(view.unfinished)
    if view.mixed_versions:
        notes.append(view.mixed_versions)
    if view.failed:
        notes.append(f"{view.failed:,} samples failed and are not in the numbers above (icl show {view.path} --failed)")
    return [*notes, ""] if notes else []


def _sentences(view: RunView) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for topic, every in groupby(view.findings, key=lambda f: f.topic):
        listed, more = _telling(list(every))
        for i, one in enumerate(listed):
            text = (
                Text().append(f"{one.subject}: ", "bold").append(one.claim, VERDICT_STYLES.get(one.verdict, "default"))
            )
            if one.numbers:
                text.append(f": {one.numbers}.")
            text.append(f" {one.more}" if one.more else "")
            grid.add_row(f"  {topic}" if i == 0 else "", text)
        if more:
            grid.add_row("", Text(f"and {more:,} more in the report", "dim"))
    return grid


def _telling(findings: list[Finding]) -> tuple[list[Finding], int]:
    """(at most MAX_SENTENCES findings in their order, those with a verdict first, number of the others)."""
    places = sorted(range(len(findings)), key=lambda i: findings[i].verdict == "open")[:MAX_SENTENCES]
    return [findings[i] for i in sorted(places)], len(findings) - len(places)
