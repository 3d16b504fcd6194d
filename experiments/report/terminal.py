"""The end of a run in the terminal: the answer, the scores, and the path of the report.

Computing intervals and tests of a large run takes seconds, so the text is stored in `.summary.json` of the run
directory. It is valid as long as nothing that it was made from has changed: the files of the run directory, the code
of the toolkit, and the terminal.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.store.store import Store, write_json
from icl import StoreError, canonical_digest
from icl.lazy_exports import PACKAGES, ROOT

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.results import Run, RunView

FILE = ".summary.json"
UNREAD = {"images", "checkpoints", "__pycache__"}
"""Folders that a summary does not depend on. Hidden files are caches."""


def print_summary(run: "Run | RunView", console: "Console") -> None:
    """Prints the answer, the scores and the path of the report. Raises StoreError for a run without samples."""
    from experiments.report.sections.headline import headline
    from experiments.report.sections.scores import scores_section
    from experiments.results.run_view import RunView
    from experiments.results.view_run import view_run

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


def read_summary(folder: Path, console: "Console") -> str | None:
    """The stored summary; None if there is none for the present files, code and terminal, or no report.

    A run with the user's own components has no stored summary, because their code may read other files.
    """
    if not (folder / "report.html").is_file():
        return None
    with suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads((folder / FILE).read_bytes())
        config = (Store(folder).read_run() or {})["config"]
        if content["state"] == _state(folder, console) and not _may_name_code(config):
            return str(content["text"])
    return None


def write_summary(folder: Path, console: "Console", text: str) -> None:
    """Stores the summary after the report is written."""
    with suppress(StoreError):  # a full disk: the next call computes the summary again
        write_json(folder / FILE, {"state": _state(folder, console), "text": text})


def _may_name_code(node: Any) -> bool:
    """Whether a text of the config may be the path of a component, or a component trusts code of others."""
    if isinstance(node, Mapping):
        return bool(node.get("trust")) or any(map(_may_name_code, node.values()))
    if isinstance(node, list):
        return any(map(_may_name_code, node))
    return isinstance(node, str) and ":" in node


def _state(folder: Path, console: "Console") -> str:
    """A digest of what a summary is made from."""
    code = [list(_files(ROOT / package)) for package in PACKAGES]
    terminal = [console.width, console.color_system, console.is_terminal, console.encoding]
    return canonical_digest([list(_files(folder)), code, terminal])


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """(path, size, last change of the content, last change of anything) of each file, in the order of their names."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted({*folders} - UNREAD)
        for path in (os.path.join(place, name) for name in sorted(names) if not name.startswith(".")):
            if os.path.isfile(path):
                at = os.stat(path)
                yield path, at.st_size, at.st_mtime_ns, at.st_ctime_ns
