"""Watch a run from outside: its progress and workers, read from the run directory.

The cluster is asked only if the run directory shows no worker any more.
"""

import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.launch.launch_files import Launch, is_alive
from experiments.launch.sample_counter import SampleCounter
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stopping.records import read_families
from experiments.store.lock import is_locked
from experiments.store.store import Store
from experiments.terminal.progress import Progress
from icl.errors import ICLError, StoreError
from icl.registry import build

POLL_SECONDS = 1.0
"""Seconds between two polls."""

MAX_IDLE_POLLS = 3
"""Polls in a row without a worker after which watching ends."""


@dataclass(frozen=True)
class WorkerCounts:
    """The workers of a run. alive: at work now. waiting: not started, or in a queue again. of: all."""

    alive: int
    waiting: int
    of: int

    def describe(self) -> str:
        if self.of == 1 and not self.waiting:
            return "1 worker" if self.alive else "no worker"
        return f"{self.alive} of {self.of} workers" + (f", {self.waiting} waiting" if self.waiting else "")


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run. samples: 0 if their number is unknown. finished: without failed samples.

    looks: Of a run with `stop`.
    """

    cells: int
    cells_done: int
    samples: int
    finished: int
    failed: int
    workers: WorkerCounts
    looks: str = ""

    @property
    def complete(self) -> bool:
        """Whether every sample is there. Failed samples count if no worker may try them again."""
        done = self.finished + (0 if self.workers.alive or self.workers.waiting else self.failed)
        return 0 < self.samples <= done

    @property
    def is_abandoned(self) -> bool:
        """Whether samples are missing and no worker is left."""
        return not (self.complete or self.workers.alive or self.workers.waiting)

    def describe(self) -> str:
        of = f"/{self.samples:,}" if self.samples else ""
        looks = f"   {self.looks}" if self.looks else ""
        return (
            f"{self.finished:,}{of} samples, {self.failed:,} failed   {self.cells_done}/{self.cells} cells   "
            f"{self.workers.describe()}{looks}"
        )


class RunWatcher:
    """A view of a run directory that is read again with each poll. Raises StoreError if there is no run."""

    def __init__(self, folder: Path) -> None:
        self.folder = load_run(folder).path
        self.store = Store(self.folder)
        self.sizes: list[tuple[str, int | None]] = []
        self.counter = SampleCounter(self.store, [], None)
        self.new_failures: list[tuple[str, str]] = []

    def poll(self) -> RunProgress:
        info = self.store.read_run() or {}
        sizes = _sizes(info)
        if sizes != self.sizes:  # another config of the same run
            self.sizes, self.counter = sizes, SampleCounter(self.store, sizes, None)
        self.new_failures = self.counter.poll()
        failed = self.counter.failed
        return RunProgress(
            len(sizes),
            self.counter.cells_done,
            self.counter.samples,
            self.counter.done - failed,
            failed,
            _workers(self.folder),
            "; ".join(family.describe() for family in read_families(self.folder)),
        )

    def comparisons(self) -> list[str]:
        """What the run shows so far, one sentence each, valid at any time. Empty for a finished run without `stop`."""
        try:
            view = view_run(load_run(self.folder))
        except StoreError:  # no sample or look yet
            return []
        return [f"{one.subject}: {one.sentence}" for one in view.findings] if view.is_sequential else []

    def follow(self, progress: Progress) -> RunProgress:
        """Reports progress until the run is complete or no worker is left. Returns the last progress."""
        status = self.poll()
        done, cells, idle_polls = status.finished + status.failed, status.cells_done, 0
        progress.begin(status.cells, status.samples, cells, done)
        try:
            while not status.complete and idle_polls < MAX_IDLE_POLLS:
                time.sleep(POLL_SECONDS)
                status = self.poll()
                failed = f"{status.failed:,} failed" if status.failed else ""
                progress.suffix = "   ".join(filter(None, (failed, status.workers.describe(), status.looks)))
                for sample, reason in self.new_failures:
                    progress.failed(sample, reason)
                for _ in range(status.cells_done - cells):
                    progress.cell_finished()
                progress.advance(max(0, status.finished + status.failed - done))
                done, cells = max(done, status.finished + status.failed), max(cells, status.cells_done)
                idle_polls = idle_polls + 1 if status.is_abandoned else 0
        finally:
            progress.end()
        return status


def _sizes(info: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(digest, number of samples) of each cell; None for the number if an older version has not written it."""
    cells, sizes = info.get("cells") or [], info.get("sizes") or []
    return [(digest, sizes[i] if len(sizes) == len(cells) else None) for i, digest in enumerate(cells)]


def _workers(folder: Path) -> WorkerCounts:
    launch = Launch.read(folder)
    if launch is None:
        return WorkerCounts(int(_is_locked(folder)), 0, 1)
    states = [launch.state(worker) for worker in launch.workers]
    waiting = sum(state.get("state", "waiting") == "waiting" for state in states)
    counts = WorkerCounts(sum(map(is_alive, states)), waiting, len(states))
    return counts if counts.alive or counts.waiting else _scheduled(launch)


def _scheduled(launch: Launch) -> WorkerCounts:
    """The workers that the cluster still knows, if it can be asked from this machine.

    A job whose node fails is requeued without a signal. Its workers then leave no state behind.
    """
    ended = WorkerCounts(0, 0, len(launch.workers))
    try:
        launcher = build("launcher", launch.launcher)
        launcher.check()
        group = launcher.reattach(launch)
        states = [] if group is None else [status.state for status in group.poll().values()]
    except ICLError:  # another machine, or a launcher of the user's that is not here
        return ended
    return replace(ended, alive=states.count("running"), waiting=states.count("waiting"))


def _is_locked(folder: Path) -> bool:
    """Whether a process runs the grid. A process on another machine is assumed to live."""
    try:
        machine = json.loads((folder / ".holder.json").read_text(encoding="utf-8"))["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return machine != platform.node() or is_locked(folder)
