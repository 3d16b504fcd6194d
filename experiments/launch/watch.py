"""A run seen from outside: how far it is and who works on it, read from its directory alone."""

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launch.launch_files import Launch, is_alive
from experiments.launch.sample_counter import SampleCounter
from experiments.results.loaded_run import load_run
from experiments.store.store import Store
from experiments.terminal.progress import Progress

EVERY = 1.0
"""Seconds between two looks."""

MAX_GAP = 3
"""Looks in a row that see nobody at work, after which it is said."""


@dataclass(frozen=True)
class WorkerCounts:
    """alive: at work now. waiting: not begun yet, or put back into a queue. of: how many there are in all."""

    alive: int
    waiting: int
    of: int

    def told(self) -> str:
        if self.of == 1 and not self.waiting:
            return "1 worker" if self.alive else "no worker"
        return f"{self.alive} of {self.of} workers" + (f", {self.waiting} waiting" if self.waiting else "")


@dataclass(frozen=True)
class RunProgress:
    """What a look saw. samples: 0 where nobody knows how many there will be. finished: without the failed ones."""

    cells: int
    cells_done: int
    samples: int
    finished: int
    failed: int
    workers: WorkerCounts

    @property
    def complete(self) -> bool:
        """Every sample is there. A failed one may still be tried again while somebody is at work."""
        there = self.finished + (0 if self.workers.alive or self.workers.waiting else self.failed)
        return 0 < self.samples <= there

    @property
    def alone(self) -> bool:
        return not (self.complete or self.workers.alive or self.workers.waiting)

    def told(self) -> str:
        of = f"/{self.samples:,}" if self.samples else ""
        return (
            f"{self.finished:,}{of} samples, {self.failed:,} failed   {self.cells_done}/{self.cells} cells   "
            f"{self.workers.told()}"
        )


class RunWatcher:
    """Looks at a run directory again and again. Raises StoreError where there is no run."""

    def __init__(self, folder: Path) -> None:
        self.folder = load_run(folder).path
        self.store = Store(self.folder)
        self.sizes: list[tuple[str, int | None]] = []
        self.tally = SampleCounter(self.store, [], None)
        self.news: list[tuple[str, str]] = []

    def poll(self) -> RunProgress:
        info = self.store.read_run() or {}
        sizes = _sizes(info)
        if sizes != self.sizes:  # another config of the same run
            self.sizes, self.tally = sizes, SampleCounter(self.store, sizes, None)
        self.news = self.tally.poll()
        failed = self.tally.failed
        return RunProgress(
            len(sizes),
            self.tally.cells_done,
            self.tally.samples,
            self.tally.done - failed,
            failed,
            _workers(self.folder),
        )

    def follow(self, progress: Progress) -> RunProgress:
        """Until the run is complete, or nobody is left who works on it. What was seen last."""
        seen = self.poll()
        done, cells, alone = seen.finished + seen.failed, seen.cells_done, 0
        progress.begin(seen.cells, seen.samples, cells, done)
        try:
            while not seen.complete and alone < MAX_GAP:
                time.sleep(EVERY)
                seen = self.poll()
                failed = f"{seen.failed:,} failed" if seen.failed else ""
                progress.suffix = "   ".join(filter(None, (failed, seen.workers.told())))
                for sample, reason in self.news:
                    progress.failed(sample, reason)
                for _ in range(seen.cells_done - cells):
                    progress.cell_finished()
                progress.advance(max(0, seen.finished + seen.failed - done))
                done, cells = max(done, seen.finished + seen.failed), max(cells, seen.cells_done)
                alone = alone + 1 if seen.alone else 0
        finally:
            progress.end()
        return seen


def _sizes(info: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(digest, samples) of each cell; None where an older version has not written it."""
    cells, sizes = info.get("cells") or [], info.get("sizes") or []
    return [(digest, sizes[i] if len(sizes) == len(cells) else None) for i, digest in enumerate(cells)]


def _workers(folder: Path) -> WorkerCounts:
    launch = Launch.read(folder)
    if launch is None:
        return WorkerCounts(int(_held(folder)), 0, 1)
    states = [launch.state(worker) for worker in launch.workers]
    waiting = sum(state.get("state", "waiting") == "waiting" for state in states)
    return WorkerCounts(sum(map(is_alive, states)), waiting, len(states))


def _held(folder: Path) -> bool:
    """Whether a process holds the run, as far as can be seen: one on another machine is believed."""
    try:
        told = json.loads((folder / ".holder.json").read_text())
        process, machine = int(told["process"]), told["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return machine != platform.node() or _lives(process)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
