"""The end of a run in the terminal: the answer, the scores, and the path of the report."""

from typing import TYPE_CHECKING

from experiments.report.sections.headline import headline
from experiments.report.sections.scores import scores_section
from experiments.results.loaded_run import Run
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(run: Run | RunView, console: "Console") -> None:
    """Prints the answer, the scores and the path of the report. Raises StoreError for a run without samples."""
    view = run if isinstance(run, RunView) else view_run(run)
    for one in (headline(view), scores_section(view)):
        one.print(console)
        console.print()
    many = f"{view.failed:,} samples" if view.failed != 1 else "1 sample"
    failed = (
        f"{many} failed and {'are' if view.failed != 1 else 'is'} not in the numbers above: icl show {view.path} failed"
    )
    notes = [*view.answer_notes, view.unfinished, view.mixed_versions, failed if view.failed else ""]
    for note in filter(None, notes):
        console.print(note, style="dim", highlight=False, markup=False)
    report = view.path / "report.html"
    text = f"report  {report}" if report.is_file() else f"report  not written yet: icl report {view.path}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)
