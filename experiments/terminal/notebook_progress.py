"""The progress display of a run in a notebook: one output below the cell, which is updated in place."""

import html
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from experiments.terminal.progress import LiveProgress, format_duration
from icl.errors import strip_control_characters

UPDATE_EVERY = 0.25
"""Seconds between two updates, because each is stored as a message to the browser."""

MAX_LINES = 20
"""The last notes and failures that are shown below the bar."""


def is_in_notebook() -> bool:
    """Whether this process is a Jupyter kernel. IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


@dataclass
class NotebookProgress(LiveProgress):
    """A progress bar as HTML, with notes and failures below it."""

    lines: list[str] = field(default_factory=list)
    handle: Any = None
    last_update: float = 0.0
    finished: bool = False

    def end(self) -> None:
        super().end()
        self.finished = True
        self._update()

    def html(self) -> str:
        """The bar, the line of numbers and the last notes."""
        share = 100 * self.done / self.samples if self.samples else 0.0
        bar = (
            '<div style="height:10px;width:100%;max-width:600px;background:#8884;border-radius:5px">'
            f'<div style="height:10px;width:{share:.1f}%;background:#4269d0;border-radius:5px"></div></div>'
        )
        notes = "".join(f"<div>{html.escape(line)}</div>" for line in self.lines[-MAX_LINES:])
        return f'<div style="font-variant-numeric:tabular-nums">{bar}<div>{html.escape(self.text())}</div>{notes}</div>'

    def text(self) -> str:
        """One line: samples, rate and remaining time, or at the end the time that the run took."""
        if not self.finished:
            return self.describe()
        failed = f", {self.failures:,} failed" if self.failures else ""
        return f"{self.done:,}/{self.samples:,} samples{failed}   {format_duration(time.monotonic() - self.started)}"

    def _beat(self) -> None:
        if time.monotonic() - self.last_update >= UPDATE_EVERY:
            self._update()

    def _print(self, text: str) -> None:
        self.lines.append(strip_control_characters(text))
        self._update()

    def _update(self) -> None:
        from IPython.display import display

        with self.lock:
            self.last_update = time.monotonic()
            bundle = {"text/html": self.html(), "text/plain": "\n".join([self.text(), *self.lines[-MAX_LINES:]])}
            if self.handle is None:
                self.handle = display(  # type: ignore[no-untyped-call]  # IPython has no types
                    bundle, raw=True, display_id=True
                )
            else:
                self.handle.update(bundle, raw=True)
