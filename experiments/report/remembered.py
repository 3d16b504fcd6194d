"""The end of a run as it was last shown, kept beside it: a finished run that is run again shows it at once.

Reading all samples and drawing intervals anew takes seconds. What is kept holds as long as no file of the samples, nor
run.json, nor the terminal, nor the code that tells of them has changed; otherwise it is made again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from os import stat_result
from pathlib import Path
from typing import TYPE_CHECKING

import experiments
import icl.metrics
from experiments.store.store import write_json
from icl import __version__
from icl.errors import StoreError

if TYPE_CHECKING:
    from rich.console import Console

KEPT = ".shown.json"


def show_end(folder: Path, console: "Console", anew: bool = False) -> None:
    """Writes the report where it is missing or old, then prints the table, what it shows, and the report's path.

    anew: whatever is kept is not trusted. Raises StoreError, ConfigError for a run of which nothing can be told, and
    behind the table where there is no room for the report.
    """
    state = _state(folder, console)
    if not anew and (text := _kept(folder, state)) is not None:
        console.file.write(text)
        return
    from experiments.report.html import write_report
    from experiments.report.terminal import print_summary
    from experiments.results.loaded_run import load_run
    from experiments.results.run_view import view_run
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        seen = view_run(load_run(folder))
        report_progress("reporting", 0, 0)
        problem = _problem(lambda: write_report(seen))
        with console.capture() as told:
            print_summary(seen, console)
    console.file.write(told.get())
    if problem is not None:
        raise problem
    write_json(folder / KEPT, {"state": state, "text": told.get()})


def _problem(write: Callable[[], object]) -> StoreError | None:
    """What kept a file from being written."""
    try:
        write()
    except StoreError as error:
        return error
    return None


def _kept(folder: Path, state: str) -> str | None:
    try:
        told = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        return str(told["text"]) if told["state"] == state and (folder / "report.html").is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(folder: Path, console: "Console") -> str:
    """Names what the text was made of: sizes and times of the files, the width, whether there are colors."""
    files = [(path.relative_to(folder).as_posix(), one.st_size, one.st_mtime_ns) for path, one in _files(folder)]
    told = [_code(), console.width, console.color_system, files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@lru_cache
def _code() -> str:
    """Digest of what a table, a sentence or a page is made by: this package and the metrics, as they stand."""
    digest = hashlib.sha256(__version__.encode())
    own, metrics = (Path(str(package.__file__)).parent for package in (experiments, icl.metrics))
    for path in sorted([*own.rglob("*.py"), *own.glob("report/templates/*"), *metrics.glob("*.py")]):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[Path, stat_result]]:
    for path in sorted([folder / "run.json", *folder.glob("cells/*/*.json"), *folder.glob("cells/*/*.jsonl")]):
        if path.is_file():
            yield path, path.stat()
