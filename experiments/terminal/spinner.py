"""A one-line progress display for commands that read or count: a line that is removed at the end.

Without a terminal it prints a line from time to time.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from experiments.terminal.progress import LINE_EVERY

ReportProgress = Callable[[str, int, int], None]
"""(what is being done, how much is done, the total or 0)."""

EVERY = 0.1
"""Seconds between two updates of the line."""

BAR = 28


@contextmanager
def spinner(out: TextIO | None = None) -> Iterator[ReportProgress]:
    """Shows a line within `with spinner() as report_progress: report_progress("reading", 3, 10)`."""
    stream = out or sys.stderr
    line = _Line(stream) if stream.isatty() else _Log(stream)
    try:
        yield line.update
    finally:
        line.end()


class _Log:
    """The display of a log: a line every `LINE_EVERY` seconds."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.last = out, time.monotonic()

    def update(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            print(f"{what:<12} {done:,}/{of:,}" if of else what, file=self.out, flush=True)

    def end(self) -> None:
        """Nothing to close."""


class _Line:
    """The display of a terminal: one line that is rewritten. It does not use rich, which takes time to import."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.last, self.what = out, -EVERY, ""

    def update(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last < EVERY and what == self.what:  # a new phase is always shown
            return
        self.last, self.what = now, what
        part = done * BAR // of if of else 0
        bar = f"{'━' * part}{' ' * (BAR - part)} {done:,}/{of:,}" if of else "…"
        self.out.write(f"\r\x1b[K{what:<12} {bar}")
        self.out.flush()

    def end(self) -> None:
        if self.what:
            self.out.write("\r\x1b[K")
            self.out.flush()
