"""How a run tells where it is: a bar on a terminal, a line now and then elsewhere, nothing when asked to be quiet."""

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from icl.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY = 15.0
"""Seconds between two lines where there is no terminal."""

WINDOW = 30.0
"""Seconds that the rate looks back: start-up and an early slow task soon leave the estimate."""

SURE = 3.0
"""Seconds of samples that are needed before a rate is told."""

REASONS_TOLD = 5
"""Failures that are told one by one; the rest are counted."""


class Progress(Protocol):
    """What the runner reports to. Samples are those still to do at the start of this session, plus those present."""

    beside: str
    """What is told after the rate: who is at work, where that is not this process."""

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None: ...

    def advance(self, samples: int) -> None: ...

    def cell_finished(self) -> None: ...

    def failed(self, sample: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...

    def doing(self, what: str) -> None:
        """What takes the time before there is a rate."""

    def end(self) -> None: ...


@dataclass
class Silent:
    """Counts, and says nothing."""

    samples: int = 0
    done: int = 0
    cells: int = 0
    cells_done: int = 0
    failures: int = 0
    started: float = 0.0
    notes: list[str] = field(default_factory=list)
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    beside: str = ""
    what: str = "starting"

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        self.cells, self.samples, self.cells_done, self.done = cells, samples, cells_done, samples_done
        self.started = time.monotonic()

    def advance(self, samples: int) -> None:
        now = time.monotonic()
        self.done += samples
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.done))
        while len(self.marks) > 2 and now - self.marks[0][0] > WINDOW:  # two: a batch may take longer than that
            self.marks.popleft()

    def cell_finished(self) -> None:
        self.cells_done += 1

    def failed(self, sample: str, reason: str) -> None:
        self.failures += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def doing(self, what: str) -> None:
        self.what = what

    def end(self) -> None:
        """Nothing to put away."""

    @property
    def rate(self) -> float:
        """Samples a second over the last WINDOW seconds; 0 before it is known."""
        now = time.monotonic()
        if not self.marks or now - self.marks[0][0] < SURE:
            return 0.0
        return (self.done - self.marks[0][1]) / (now - self.marks[0][0])

    @property
    def left(self) -> str:
        """Time left, as 1:02:03 or 0:21; '-' before it is known."""
        if self.rate <= 0:
            return "-"
        return clock((self.samples - self.done) / self.rate)

    def told(self) -> str:
        pace = f"{self.rate:,.0f} samples/s   {self.left} left" if self.rate > 0 else self.what
        return "   ".join(filter(None, (f"{self.cells_done}/{self.cells} cells", pace, self.beside)))


@dataclass
class Lines(Silent):
    """A line every `LINE_EVERY` seconds, for logs."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    last: float = 0.0

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        super().begin(cells, samples, cells_done, samples_done)
        there = f", {samples_done:,} of them there already" if samples_done else ""
        self._say(f"plan         {cells:,} cells, {samples:,} samples{there}")

    def advance(self, samples: int) -> None:
        super().advance(samples)
        now = time.monotonic()
        if now - max(self.last, self.started) >= LINE_EVERY:
            self.last = now
            self._say(f"running      {self.done:,}/{self.samples:,} samples   {self.told()}")

    def failed(self, sample: str, reason: str) -> None:
        super().failed(sample, reason)
        if self.failures <= REASONS_TOLD:
            self._say(failure(sample, reason, self.failures, self.samples))
        elif self.failures == REASONS_TOLD + 1:
            self._say("further failed samples are counted, and recorded with their reasons.")

    def note(self, text: str) -> None:
        super().note(text)
        self._say(text)

    def _say(self, text: str) -> None:
        print(printable(text), file=self.out, flush=True)


@dataclass
class Terminal(Lines):
    """A bar with cells, samples a second and the time left."""

    bar: "Bar | None" = None
    task: Any = None

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        super().begin(cells, samples, cells_done, samples_done)
        columns = (TextColumn("running     "), BarColumn(28), TextColumn("{task.fields[told]}"))
        self.bar = Bar(*columns, console=Console(file=self.out), transient=True)
        self.task = self.bar.add_task("run", total=samples, completed=samples_done, told=self.told())
        self.bar.start()

    def advance(self, samples: int) -> None:
        Silent.advance(self, samples)
        if self.bar is not None:
            self.bar.update(self.task, advance=samples, told=self.told())

    def doing(self, what: str) -> None:
        super().doing(what)
        if self.bar is not None:
            self.bar.update(self.task, told=self.told())

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(printable(text), markup=False, highlight=False)
        else:
            super()._say(text)


def progress(quiet: bool = False, out: TextIO | None = None) -> Progress:
    """The one that fits where the output goes."""
    stream = out or sys.stderr
    if quiet:
        return Silent()
    return Terminal(out=stream) if stream.isatty() else Lines(out=stream)


def failure(sample: str, reason: str, count: int, samples: int) -> str:
    """The sentence of one failed sample."""
    return f"sample {sample}: {reason.rstrip('.')}. Sample marked failed; {count:,} of {samples:,} so far."


def clock(seconds: float) -> str:
    """'0:21', '12:05', '1:02:03'."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
