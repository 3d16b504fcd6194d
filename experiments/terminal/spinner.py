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
    """Shows a line within `with spinner() as report_progress: report_progress("reading", 3, 10)`.

    On a terminal one line is rewritten, without rich, which takes time to import. A log gets a line from time to time.
    """
    stream = out or sys.stderr
    is_terminal = stream.isatty()
    last, phase = -EVERY if is_terminal else time.monotonic(), ""

    def report_progress(what: str, done: int, of: int) -> None:
        nonlocal last, phase
        now = time.monotonic()
        is_new_phase = is_terminal and what != phase
        if now - last < (EVERY if is_terminal else LINE_EVERY) and not is_new_phase:
            return
        last, phase = now, what
        if is_terminal:
            part = done * BAR // of if of else 0
            bar = f"{'━' * part}{' ' * (BAR - part)} {done:,}/{of:,}" if of else "…"
            print(f"\r\x1b[K{what:<12} {bar}", end="", file=stream, flush=True)
        else:
            print(f"{what:<12} {done:,}/{of:,}" if of else what, file=stream, flush=True)

    try:
        yield report_progress
    finally:
        if is_terminal and phase:
            print("\r\x1b[K", end="", file=stream, flush=True)
