"""What a person sees while something is read or counted before a run: a line that grows and is gone when it is done.

Where there is no terminal, a line now and then.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from experiments.terminal.progress import LINE_EVERY

ReportProgress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much; 0 where nobody knows)."""

EVERY = 0.1
"""Seconds between two changes of the line."""

BAR = 28


@contextmanager
def spinner(out: TextIO | None = None) -> Iterator[ReportProgress]:
    """`with spinner() as report_progress: tell("reading", 3, 10)`."""
    stream = out or sys.stderr
    line = _Line(stream) if stream.isatty() else _Log(stream)
    try:
        yield line.tell
    finally:
        line.end()


class _Log:
    """A line every `LINE_EVERY` seconds."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.last = out, time.monotonic()

    def tell(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            print(f"{what:<12} {done:,}/{of:,}" if of else what, file=self.out, flush=True)

    def end(self) -> None:
        """Nothing to put away."""


class _Line:
    """One line that is written over and over. Written by hand: a command that ends at once needs no more imports."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.last, self.what = out, -EVERY, ""

    def tell(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last < EVERY and what == self.what:  # something else that is done is always told
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
