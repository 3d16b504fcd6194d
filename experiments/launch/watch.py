"""Watch a run from outside: its progress and workers, read from the run directory.

The cluster is asked only if the run directory shows no worker at work.
"""

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launch.launch_files import Launch, is_alive
from experiments.launch.sample_counter import SampleCounter
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stopping.looks import read_families
from experiments.store.lock import is_locked
from experiments.store.store import Store
from experiments.terminal.progress import Progress
from icl.errors import ICLError, StoreError
from icl.registry import build
from icl.untrusted import untrusted

POLL_SECONDS = 1.0
"""Seconds between two polls."""

CLUSTER_SECONDS = 10.0
"""Seconds between two questions to the cluster while jobs wait."""

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
        self.cluster = ClusterStates()

    def poll(self) -> RunProgress:
        info = self.store.read_run() or {}
        sizes = _sizes(info)
        if sizes != self.sizes:  # another config of the same run
            self.sizes, self.counter = sizes, SampleCounter(self.store, sizes, None)
        self.new_failures = self.counter.poll()
        failed, launch = self.counter.failed, Launch.read(self.folder)
        return RunProgress(
            len(sizes),
            self.counter.cells_done,
            self.counter.samples,
            self.counter.done - failed,
            failed,
            _one_process(self.folder) if launch is None else _workers(launch, self.cluster),
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


def _one_process(folder: Path) -> WorkerCounts:
    """The process of a run without a launch."""
    return WorkerCounts(int(_is_locked(folder)), 0, 1)


class ClusterStates:
    """The states of a launch's jobs, asked from the cluster at most every `CLUSTER_SECONDS` while it knows a job."""

    def __init__(self) -> None:
        self.states: Mapping[str, str] = {}
        self.poll_time, self.launch = -math.inf, ""

    def of(self, launch: Launch) -> Mapping[str, str]:
        """worker -> state of its job (`WorkerStatus.state`). Empty if the cluster cannot be asked from here."""
        has_jobs = launch.id == self.launch and set(self.states.values()) - {"ended"}
        if not has_jobs or time.monotonic() - self.poll_time >= CLUSTER_SECONDS:
            self.states, self.poll_time, self.launch = _job_states(launch), time.monotonic(), launch.id
        return self.states


def _workers(launch: Launch, cluster: ClusterStates) -> WorkerCounts:
    """The workers by the run directory. If none is at work, the cluster knows more.

    A job that is canceled before its start, and one whose node fails, leave no state behind. Slurm requeues the latter
    without a signal.
    """
    states = {worker: launch.state(worker) for worker in launch.workers}
    waiting = {worker for worker, state in states.items() if state.get("state", "waiting") == "waiting"}
    if alive := sum(map(is_alive, states.values())):
        return WorkerCounts(alive, len(waiting), len(states))
    jobs = cluster.of(launch)
    waiting = {worker for worker in states if jobs.get(worker) == "waiting" or worker in waiting} - {
        worker for worker, state in jobs.items() if state == "ended"
    }
    alive = sum(state == "running" and worker not in waiting for worker, state in jobs.items())
    return WorkerCounts(alive, len(waiting), len(states))


def _job_states(launch: Launch) -> Mapping[str, str]:
    try:
        with untrusted(launch.folder):
            launcher = build("launcher", launch.launcher)
        launcher.check()
        group = launcher.reattach(launch)
        if group is not None:
            return {worker: status.state for worker, status in group.poll().items()}
    except ICLError:  # another machine, or a launcher of the user's own
        return {}
    return {} if _is_locked(launch.folder) else dict.fromkeys(launch.workers, "ended")  # they end with their starter


def _is_locked(folder: Path) -> bool:
    """Whether a process runs the grid. A process on another machine is assumed to live."""
    try:
        machine = json.loads((folder / ".holder.json").read_text(encoding="utf-8"))["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return machine != platform.node() or is_locked(folder)
