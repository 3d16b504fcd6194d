"""Watch a run from outside: its progress and workers, read from the run directory.

The cluster is asked only if the run directory shows no worker at work.
"""

import math
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.launch.base import Launch, is_alive
from experiments.stopping.looks import read_families
from experiments.store import HOLDER, LineTail, Store, is_locked, read_json, sample_files
from experiments.terminal.progress import Progress
from icl import ICLError, StoreError, build
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
        from experiments.results.loaded_run import load_run

        self.folder = load_run(folder).path
        self.store = Store(self.folder)
        self.sizes: list[tuple[str, int | None]] = []
        self.counter = SampleCounter(self.store, [], None)
        self.new_failures: list[tuple[str, str]] = []
        self.job_states: Mapping[str, str] = {}
        self.cluster_poll_time = -math.inf

    def poll(self, progress: Progress | None = None) -> RunProgress:
        """Reads the run directory again. progress: receives what is new."""
        info = self.store.read_run() or {}
        sizes = _sizes(info)
        if sizes != self.sizes:  # another config of the same run
            self.sizes, self.counter = sizes, SampleCounter(self.store, sizes, None)
            progress = None  # the counts start again
        self.new_failures = self.counter.report(progress) if progress else self.counter.poll()
        counter, launch = self.counter, Launch.read(self.folder)
        status = RunProgress(
            len(sizes),
            len(counter.finished_cells),
            counter.samples,
            counter.done - counter.failed,
            counter.failed,
            WorkerCounts(int(_is_locked(self.folder)), 0, 1) if launch is None else self._workers(launch),
            "; ".join(family.describe() for family in read_families(self.folder)),
        )
        if progress:
            failed = f"{status.failed:,} failed" if status.failed else ""
            progress.suffix = "   ".join(filter(None, (failed, status.workers.describe(), status.looks)))
        return status

    def comparisons(self) -> list[str]:
        """What the run shows so far, one sentence each, valid at any time. Empty for a finished run without `stop`."""
        from experiments.results.loaded_run import load_run
        from experiments.results.view_run import view_run

        try:
            view = view_run(load_run(self.folder))
        except StoreError:  # no sample or look yet
            return []
        return [f"{one.subject}: {one.sentence}" for one in view.findings] if view.is_sequential else []

    def _workers(self, launch: Launch) -> WorkerCounts:
        """The workers by the run directory. If none is at work, the cluster knows more.

        A job leaves no state behind if it is canceled before its start or if its node fails. Slurm requeues a job
        without a signal if its node fails. The cluster is asked at most every `CLUSTER_SECONDS` while it knows a job.
        """
        states = {worker: launch.state(worker) for worker in launch.workers}
        waiting = {worker for worker, state in states.items() if state.get("state", "waiting") == "waiting"}
        if alive := sum(map(is_alive, states.values())):
            return WorkerCounts(alive, len(waiting), len(states))
        has_jobs = self.job_states.keys() == states.keys() and set(self.job_states.values()) != {"ended"}
        if not has_jobs or time.monotonic() - self.cluster_poll_time >= CLUSTER_SECONDS:
            self.job_states, self.cluster_poll_time = _job_states(launch), time.monotonic()
        jobs = self.job_states
        waiting = {w for w in states if jobs.get(w) == "waiting" or (w in waiting and jobs.get(w) != "ended")}
        alive = sum(state == "running" and worker not in waiting for worker, state in jobs.items())
        return WorkerCounts(alive, len(waiting), len(states))

    def follow(self, progress: Progress) -> RunProgress:
        """Reports progress until the run is complete or no worker is left. Returns the last progress."""
        status, idle_polls = self.poll(), 0
        progress.begin(status.cells, status.samples, status.cells_done, status.finished + status.failed)
        try:
            while not status.complete and idle_polls < MAX_IDLE_POLLS:
                time.sleep(POLL_SECONDS)
                status = self.poll(progress)
                idle_polls = idle_polls + 1 if status.is_abandoned else 0
        finally:
            progress.end()
        return status


@dataclass
class _CellCount:
    """The samples of one cell that were read.

    Attributes:
        of: Number of samples that the cell will have; None if unknown.
        finished: Ids of queries.
        failed: Id of a query -> reason.
    """

    tail: LineTail
    of: int | None
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.finished) + len(self.failed)


class SampleCounter:
    """A counter of the samples in the files of a run.

    Args:
        sizes: (digest of a cell, number of samples that it will have or None if unknown).
        workers: The workers whose files are read; None: all files.
    """

    def __init__(self, store: Store, sizes: Sequence[tuple[str, int | None]], workers: Collection[str] | None) -> None:
        self.store, self.workers = store, workers
        self.cells = {digest: _CellCount(LineTail(digest), of) for digest, of in sizes}

    def report(self, progress: Progress, on_cell: Callable[[str], None] | None = None) -> list[tuple[str, str]]:
        """Reads new lines and reports them. on_cell: called with each cell that is finished now."""
        done, cells = self.done, set(self.finished_cells)
        failures = self.poll()
        for sample, reason in failures:
            progress.failed(sample, reason)
        if self.done > done:
            progress.advance(self.done - done)
        for digest in set(self.finished_cells) - cells:
            progress.cell_finished()
            if on_cell:
                on_cell(digest)
        return failures

    def poll(self) -> list[tuple[str, str]]:
        """Reads new lines. Returns (sample, reason) of new failures."""
        before = {digest: set(cell.failed) for digest, cell in self.cells.items()}
        for cell in self.cells.values():
            self._update(cell)
        return [
            (query, reason)
            for digest, cell in self.cells.items()
            for query, reason in cell.failed.items()
            if query not in before[digest]
        ]

    @property
    def done(self) -> int:
        """Number of finished or failed samples."""
        return sum(cell.done for cell in self.cells.values())

    @property
    def failed(self) -> int:
        return sum(len(cell.failed) for cell in self.cells.values())

    @property
    def samples(self) -> int:
        """Number of samples that there will be; 0 if unknown."""
        sizes = [cell.of for cell in self.cells.values() if cell.of is not None]
        return sum(sizes) if len(sizes) == len(self.cells) else 0

    @property
    def finished_cells(self) -> list[str]:
        """The digests of cells whose samples are all finished or failed."""
        return [digest for digest, cell in self.cells.items() if cell.of is not None and cell.done >= cell.of]

    def _update(self, cell: _CellCount) -> None:
        lines, replaced = cell.tail.read(self._files(cell.tail.digest))
        if replaced:
            cell.finished.clear()
            cell.failed.clear()
        for line in lines:
            query = line["query"]
            if not line.get("failed"):
                cell.finished.add(query)
                cell.failed.pop(query, None)
            elif query not in cell.finished:
                cell.failed[query] = str(line["failed"])

    def _files(self, digest: str) -> list[Path]:
        folder = self.store.cell_folder(digest)
        if self.workers is None:
            return sample_files(folder)
        return [folder / f"{worker}.jsonl" for worker in self.workers]


def _sizes(info: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(digest, number of samples) of each cell; None for the number if an older version has not written it."""
    cells, sizes = info.get("cells") or [], info.get("sizes") or []
    return [(digest, sizes[i] if len(sizes) == len(cells) else None) for i, digest in enumerate(cells)]


def _job_states(launch: Launch) -> Mapping[str, str]:
    if not launch.launcher:  # started by hand
        return {}
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
    machine = (read_json(folder / HOLDER) or {}).get("machine")
    return machine is not None and (machine != platform.node() or is_locked(folder))
