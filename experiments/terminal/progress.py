"""The progress display of a run: a bar on a terminal or in a notebook, lines elsewhere, nothing with `--quiet`.

Every display also writes log messages: phases and notes at INFO, failed samples and finished cells at DEBUG."""

import html
import logging
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any, Protocol, TextIO

from icl import rich, strip_control_characters

LINE_EVERY = 15.0
"""Seconds between two lines of a log."""

WINDOW = 30.0
"""Seconds over which the rate is averaged, so that a slow start does not stay in it."""

MIN_RATE_SECONDS = 3.0
"""Seconds of samples that a rate needs."""

LONG_PHASE_SECONDS = 3.0
"""Seconds after which the duration of a phase is shown."""

BAR = 28
"""The width of the bar in columns, if there is room."""

VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S+\.\w{2,4}\b|\d[\d,.]*")
"""Quoted names, paths, file names and numbers: what differs between reasons of one kind."""

MAX_REASONS = 5
"""Kinds of failures that are printed; samples of further ones are only counted."""

logger = logging.getLogger(f"icl.{__name__}")


class Progress(Protocol):
    """The interface that the runner reports to. `samples` counts all samples of the run, present ones included."""

    suffix: str
    """Text after the rate, such as the number of workers."""

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None: ...

    def expect(self, work: float) -> None:
        """Sets the work of the missing samples, in any unit. Without it, each sample is one unit."""

    def advance(self, samples: int, work: float | None = None) -> None:
        """Counts finished samples and their work, by which the remaining time is estimated."""

    def cell_finished(self) -> None: ...

    def failed(self, sample: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        """Names what the run is doing now.

        Args:
            what: The phase, such as "loading the model".
            reset_rate: Whether the rate so far does not predict the next samples.
        """

    def end(self) -> None: ...


@dataclass
class SilentProgress:
    """A progress counter without output, and the base class of the displays."""

    samples: int = 0
    done: int = 0
    cells: int = 0
    cells_done: int = 0
    failures: int = 0
    failure_kinds: Counter[str] = field(default_factory=Counter)
    """Kind -> the number of its failures, in the order in which the kinds appear."""
    first_failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Kind -> the first failed sample of it, and the reason."""
    started: float = 0.0
    notes: list[str] = field(default_factory=list)
    marks: deque[tuple[float, int, float]] = field(default_factory=deque)
    """Time, finished samples and remaining work."""
    work_left: float = 0.0
    suffix: str = ""
    what: str = "starting"
    since: float = 0.0

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        self.cells, self.samples, self.cells_done, self.done = cells, samples, cells_done, samples_done
        self.started = self.since = time.monotonic()
        self.work_left = float(samples - samples_done)

    def expect(self, work: float) -> None:
        self.work_left = work

    def advance(self, samples: int, work: float | None = None) -> None:
        now = time.monotonic()
        self.done += samples
        self.work_left -= samples if work is None else work
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.done, self.work_left))
        while len(self.marks) > 2 and now - self.marks[0][0] > WINDOW:  # two, because a batch may take longer
            self.marks.popleft()

    def cell_finished(self) -> None:
        self.cells_done += 1
        logger.debug("%s of %s cells finished", self.cells_done, self.cells)

    def failed(self, sample: str, reason: str) -> None:
        self.failures += 1
        logger.debug("sample %s failed: %s", sample, reason)

    def note(self, text: str) -> None:
        self.notes.append(text)
        logger.info("%s", text)

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        if what != self.what:
            logger.log(logging.INFO if reset_rate or not self.marks else logging.DEBUG, "%s", what)
        self.what, self.since = what, time.monotonic()
        if reset_rate:
            self.marks.clear()

    def end(self) -> None:
        """Nothing to close."""

    @property
    def rate(self) -> float:
        """Samples per second over the last WINDOW seconds; 0 before MIN_RATE_SECONDS have passed."""
        now = time.monotonic()
        if not self.marks or now - self.marks[0][0] < MIN_RATE_SECONDS:
            return 0.0
        return (self.done - self.marks[0][1]) / (now - self.marks[0][0])

    @property
    def left(self) -> str:
        """The remaining time, such as '1:02:03' or '0:21'; '-' without a rate. It counts work, not samples."""
        if self.rate <= 0:
            return "-"
        start, _, work_left = self.marks[0]
        pace = (work_left - self.work_left) / (time.monotonic() - start)
        return format_duration(max(0.0, self.work_left) / pace) if pace > 0 else "-"

    def describe(self) -> str:
        """One line with samples, rate and remaining time.

        It does not count cells: all arms of a query are decoded together, so cells finish together and late.
        """
        rate = self.rate
        pace = f"{rate:,.{0 if rate >= 10 else 1}f} samples/s   {self.left} left" if rate > 0 else self._phase_text()
        return "   ".join(filter(None, (f"{self.done:,}/{self.samples:,} samples", pace, self.suffix)))

    def _phase_text(self) -> str:
        lasted = time.monotonic() - self.since
        return self.what if lasted < LONG_PHASE_SECONDS else f"{self.what}, for {format_duration(lasted)}"


class Heartbeat:
    """A thread that calls `beat` every second until `stop`, so that long waits are reported."""

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
    """A progress display for logs: a line per phase, and one every `LINE_EVERY` seconds."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    last_line: float = 0.0
    heartbeat: Heartbeat | None = None
    lock: Any = field(default_factory=Lock)

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        super().begin(cells, samples, cells_done, samples_done)
        present = f", {samples_done:,} of them there already" if samples_done else ""
        self._print(f"plan         {cells:,} cells, {samples:,} samples{present}")
        self.heartbeat = Heartbeat(self._beat)

    def advance(self, samples: int, work: float | None = None) -> None:
        super().advance(samples, work)
        self._beat()

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        is_new_phase = what != self.what and (reset_rate or not self.marks)
        super().set_phase(what, reset_rate)
        if is_new_phase:
            self.last_line = time.monotonic()
            self._print(f"running      {self.describe()}")

    def end(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.stop()
            self.heartbeat = None
        for kind, count in list(self.failure_kinds.items())[:MAX_REASONS]:
            if count > 1:
                sample, reason = self.first_failures[kind]
                self._print(f"failed       {count:,} samples, first {sample}: {reason.rstrip('.')}.")
        self.failure_kinds.clear()

    def _beat(self) -> None:
        with self.lock:
            now = time.monotonic()
            due = now - max(self.last_line, self.started) >= LINE_EVERY
            self.last_line = now if due else self.last_line
        if due:
            self._print(f"running      {self.describe()}")

    def failed(self, sample: str, reason: str) -> None:
        super().failed(sample, reason)
        kind = failure_kind(reason)
        self.failure_kinds[kind] += 1
        if self.failure_kinds[kind] > 1:
            return
        self.first_failures[kind] = sample, reason
        if len(self.failure_kinds) <= MAX_REASONS:
            count = f"{self.failures:,} of {self.samples:,} so far"
            self._print(f"sample {sample}: {reason.rstrip('.')}. Sample marked failed; {count}.")
        elif len(self.failure_kinds) == MAX_REASONS + 1:
            self._print("failures of further kinds are counted here; the run records their reasons.")

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._print(text)

    def _print(self, text: str) -> None:
        print(strip_control_characters(text), file=self.out, flush=True)


@dataclass
class LiveProgress(LineProgress):
    """A progress display that is updated in place, so a phase needs no line of its own."""

    def set_phase(self, what: str, reset_rate: bool = False) -> None:
        SilentProgress.set_phase(self, what, reset_rate)
        self._beat()


@dataclass
class BarProgress(LiveProgress):
    """A progress bar with samples, rate and remaining time, for terminals."""

    bar: "rich.progress.Progress | None" = None
    column: "rich.progress.BarColumn | None" = None
    task: Any = None

    def begin(self, cells: int, samples: int, cells_done: int, samples_done: int) -> None:
        super().begin(cells, samples, cells_done, samples_done)
        self.column = rich.progress.BarColumn(BAR)
        columns = (
            rich.progress.TextColumn("running     "),
            self.column,
            rich.progress.TextColumn("{task.fields[text]}"),
        )
        self.bar = rich.progress.Progress(*columns, console=rich.console.Console(file=self.out), transient=True)
        self.task = self.bar.add_task("run", total=samples, completed=samples_done, text="")
        self._beat()
        self.bar.start()

    def end(self) -> None:
        super().end()
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _beat(self) -> None:
        bar, column = self.bar, self.column
        if bar is not None and column is not None:
            text = self.describe()
            available = bar.console.width - len("running      ") - len(text) - 2
            column.bar_width = max(
                4, min(column.bar_width or BAR, available)
            )  # it never grows again, because it would flicker
            bar.update(self.task, completed=self.done, text=text)

    def _print(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(strip_control_characters(text), markup=False, highlight=False)
        else:
            super()._print(text)


def make_progress(quiet: bool = False, out: TextIO | None = None) -> Progress:
    """The display for a stream: a bar on a terminal, else lines. Without a stream, a notebook has a bar below its cell.

    Args:
        quiet: Whether to display nothing.
        out: The stream; by default stderr.
    """
    stream = out or sys.stderr
    if quiet:
        return SilentProgress()
    if out is None and is_in_notebook():
        return NotebookProgress()
    return BarProgress(out=stream) if stream.isatty() else LineProgress(out=stream)


def failure_kind(reason: str) -> str:
    """The reason without names, numbers and paths, which differ between failures of one kind."""
    return VARYING.sub("…", reason)


def format_duration(seconds: float) -> str:
    """'0:21', '12:05', '1:02:03'."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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


# A one-line progress display for commands that read or count: a line that is removed at the end.
#
# Without a terminal it prints a line from time to time.


ReportProgress = Callable[[str, int, int], None]
"""(what is being done, how much is done, the total or 0)."""

EVERY = 0.1
"""Seconds between two updates of the line."""


@contextmanager
def spinner(what: str = "", *, out: TextIO | None = None) -> Iterator[ReportProgress]:
    """Shows a line within `with spinner("reading") as report_progress: report_progress("counting", 3, 10)`.

    On a terminal one line is rewritten, without rich, because importing it takes time. A log gets a line from time to
    time.
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

    if what:
        report_progress(what, 0, 0)
    try:
        yield report_progress
    finally:
        if is_terminal and phase:
            print("\r\x1b[K", end="", file=stream, flush=True)
