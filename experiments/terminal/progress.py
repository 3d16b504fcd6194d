"""How a run tells where it is: a bar on a terminal, a line now and then elsewhere, nothing when asked to be quiet."""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from icl.errors import strip_control_characters

if TYPE_CHECKING:
    from rich.progress import BarColumn
    from rich.progress import Progress as Bar

LINE_EVERY = 15.0
"""Seconds between two lines where there is no terminal."""

WINDOW = 30.0
"""Seconds that the rate looks back: start-up and an early slow task soon leave the estimate."""

MIN_RATE_SECONDS = 3.0
"""Seconds of samples that are needed before a rate is told."""

LONG_PHASE_SECONDS = 3.0
"""Seconds after which it is told for how long the same thing has been done."""

BAR = 28
"""Columns of the bar, where there is room for them."""

MAX_REASONS = 5
"""Failures that are told one by one; the rest are counted."""


class Progress(Protocol):
    """What the runner reports to. Samples are those still to do at the start of this session, plus those present."""

    suffix: str
    """What is told after the rate: who is at work, where that is not this process."""

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None: ...

    def advance(self, samples: int) -> None: ...

    def cell_finished(self) -> None: ...

    def failed(self, sample: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        """What takes the time before there is a rate. afresh: the rate so far says nothing of what comes."""

    def end(self) -> None: ...


@dataclass
class SilentProgress:
    """Counts, and says nothing."""

    samples: int = 0
    done: int = 0
    cells: int = 0
    cells_done: int = 0
    failures: int = 0
    started: float = 0.0
    notes: list[str] = field(default_factory=list)
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    suffix: str = ""
    what: str = "starting"
    since: float = 0.0

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        self.cells, self.samples, self.cells_done, self.done = cells, samples, cells_done, samples_done
        self.started = self.since = time.monotonic()

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

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        self.what, self.since = what, time.monotonic()
        if reset_rate:
            self.marks.clear()

    def end(self) -> None:
        """Nothing to put away."""

    @property
    def rate(self) -> float:
        """Samples a second over the last WINDOW seconds; 0 before it is known."""
        now = time.monotonic()
        if not self.marks or now - self.marks[0][0] < MIN_RATE_SECONDS:
            return 0.0
        return (self.done - self.marks[0][1]) / (now - self.marks[0][0])

    @property
    def left(self) -> str:
        """Time left, as 1:02:03 or 0:21; '-' before it is known."""
        if self.rate <= 0:
            return "-"
        return format_duration((self.samples - self.done) / self.rate)

    def describe(self) -> str:
        """Samples, not cells: all arms of a query are answered together, so cells end together, and late."""
        rate = self.rate
        pace = f"{rate:,.{0 if rate >= 10 else 1}f} samples/s   {self.left} left" if rate > 0 else self._begun()
        return "   ".join(filter(None, (f"{self.done:,}/{self.samples:,} samples", pace, self.suffix)))

    def _begun(self) -> str:
        lasted = time.monotonic() - self.since
        return self.what if lasted < LONG_PHASE_SECONDS else f"{self.what}, for {format_duration(lasted)}"


class Heartbeat:
    """Calls `beat` every second, in a thread, until it is stopped: a wait is told of too."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self.beat, self.over = beat, Event()
        self.thread = Thread(target=self._run, name="progress", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.over.wait(1):
            self.beat()

    def stop(self) -> None:
        self.over.set()
        self.thread.join()


@dataclass
class LineProgress(SilentProgress):
    """A line for what is begun, and one every `LINE_EVERY` seconds, whether or not anything has moved: for logs."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    last: float = 0.0
    heart: Heartbeat | None = None
    saying: Any = field(default_factory=Lock)

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        super().begin(cells, samples, cells_done, samples_done)
        there = f", {samples_done:,} of them there already" if samples_done else ""
        self._say(f"plan         {cells:,} cells, {samples:,} samples{there}")
        self.heart = Heartbeat(self._beat)

    def advance(self, samples: int) -> None:
        super().advance(samples)
        self._beat()

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        begun = what != self.what and (reset_rate or not self.marks)
        super().set_phase(what, reset_rate)
        if begun:
            self.last = time.monotonic()
            self._say(f"running      {self.describe()}")

    def end(self) -> None:
        if self.heart is not None:
            self.heart.stop()
            self.heart = None

    def _beat(self) -> None:
        with self.saying:
            now = time.monotonic()
            due = now - max(self.last, self.started) >= LINE_EVERY
            self.last = now if due else self.last
        if due:
            self._say(f"running      {self.describe()}")

    def failed(self, sample: str, reason: str) -> None:
        super().failed(sample, reason)
        if self.failures <= MAX_REASONS:
            self._say(failure_text(sample, reason, self.failures, self.samples))
        elif self.failures == MAX_REASONS + 1:
            self._say("further failed samples are counted, and recorded with their reasons.")

    def note(self, text: str) -> None:
        super().note(text)
        self._say(text)

    def _say(self, text: str) -> None:
        print(strip_control_characters(text), file=self.out, flush=True)


@dataclass
class BarProgress(LineProgress):
    """A bar with samples, samples a second and the time left."""

    bar: "Bar | None" = None
    column: "BarColumn | None" = None
    task: Any = None

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        super().begin(cells, samples, cells_done, samples_done)
        self.column = BarColumn(BAR)
        columns = (TextColumn("running     "), self.column, TextColumn("{task.fields[text]}"))
        self.bar = Bar(*columns, console=Console(file=self.out), transient=True)
        self.task = self.bar.add_task("run", total=samples, completed=samples_done, text="")
        self._beat()
        self.bar.start()

    def advance(self, samples: int) -> None:
        SilentProgress.advance(self, samples)
        self._beat()

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        SilentProgress.set_phase(self, what, reset_rate)
        self._beat()

    def end(self) -> None:
        super().end()
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _beat(self) -> None:
        bar, column = self.bar, self.column
        if bar is not None and column is not None:
            text = self.describe()
            room = bar.console.width - len("running      ") - len(text) - 2
            column.bar_width = max(4, min(column.bar_width or BAR, room))  # never wider again: it would jump
            bar.update(self.task, completed=self.done, text=text)

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(strip_control_characters(text), markup=False, highlight=False)
        else:
            super()._say(text)


def make_progress(quiet: bool = False, out: TextIO | None = None) -> Progress:
    """The one that fits where the output goes."""
    stream = out or sys.stderr
    if quiet:
        return SilentProgress()
    return BarProgress(out=stream) if stream.isatty() else LineProgress(out=stream)


def failure_text(sample: str, reason: str, count: int, samples: int) -> str:
    """The sentence of one failed sample."""
    return f"sample {sample}: {reason.rstrip('.')}. Sample marked failed; {count:,} of {samples:,} so far."


def format_duration(seconds: float) -> str:
    """'0:21', '12:05', '1:02:03'."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
