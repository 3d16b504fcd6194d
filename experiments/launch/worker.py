"""One worker of a launch: computes its shard of the grid into its own files and writes its state.

Shard i/n has every n-th query of a model, with all arms, shots and seeds: each of its prompts is prefilled once and
each image encoded once. With several models, few workers load each model.

    models A and B, three workers      1: A q1 q4 q2 q5     2: A q3 q6, B q1 q4     3: B q2 q5 q3 q6

A worker reads the config from the run directory and works as a run in one process does. If it is stopped, it keeps what
it has finished. The same worker started again computes the rest of its shard.
"""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.config import DEFAULT_LAUNCHER, Config, Document, parse_config
from experiments.grid.grid import Grid, expand
from experiments.launch.base import HEARTBEAT_SECONDS, Launch, launch_folder, worker_lock
from experiments.launch.coordinator import join_launch
from experiments.running import CostLog, Runner, expand_checked, sum_counters
from experiments.stopping.stopping import open_stopping
from experiments.store import (
    Invocation,
    RunState,
    Store,
    load_run_state,
    now,
    read_json,
    run_day,
    write_json,
    write_lock,
)
from experiments.terminal.progress import LineProgress
from icl import ICLError, StoreError

LAUNCH_TIMEOUT = 5.0
"""Seconds that a worker waits for the file of its launch, which may come later than the job on a slow network disk."""

JOIN_TIMEOUT = 30.0
"""Seconds that a shard waits while others join the same launch."""

OnStart = Callable[["WorkerSession"], None]
"""Called with the session of a worker before it loads anything."""


def run_shard(config: Config, runs: Path, index: int, count: int) -> str:
    """Computes shard `index` of `count` of a config in the folder `runs` / its name, next to the other shards.

    Args:
        config: The config, the same for all shards.
        runs: The folder of run directories.
        index: From 1 to `count`.
        count: The number of shards.

    Returns:
        Why the shard did not finish, in a sentence; '' if it did.

    Raises:
        ICLError: The run cannot start. StoreError: another process computes this shard, the whole run, or other shards.
    """
    grid = expand_checked(replace(config, launcher=DEFAULT_LAUNCHER, observe=()))
    folder = runs / config.name
    with write_lock(folder, JOIN_TIMEOUT):
        launch = join_launch(Store(folder), grid, count)
    with interrupt_on(signal.SIGTERM):
        return run_worker(str(folder), launch.workers[index - 1], str(os.getpid()))


def run_worker(run: str, worker: str, job: str = "", on_start: OnStart | None = None) -> str:
    """Computes a worker's shard.

    Args:
        run: The run directory.
        worker: The worker's name in the launch.
        job: What the launcher calls the job.
        on_start: Called with the worker's session before anything is loaded.

    Returns:
        Why the worker did not finish its shard, in a sentence; '' if it did.

    Raises:
        StoreError: Another process is the same worker.
    """
    folder = Path(run).absolute()
    deadline = time.monotonic() + LAUNCH_TIMEOUT
    while not _is_current(folder, worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    if _is_current(folder, worker):
        with worker_lock(folder, worker):
            launch = Launch.read(folder)
            if launch is not None and worker in launch.workers:
                return _run_session(launch, worker, job, on_start)
    given_up = f"{folder}: the launch of worker {worker} was given up. Nothing is done."
    print(given_up, file=sys.stderr)
    return given_up


def _is_current(folder: Path, worker: str) -> bool:
    launch = Launch.read(folder)
    return launch is not None and worker in launch.workers


def _run_session(launch: Launch, worker: str, job: str, on_start: OnStart | None) -> str:
    os.chdir(launch.config["cwd"])
    sys.path += [entry for entry in launch.config["path"] if entry not in sys.path]
    try:
        with WorkerSession(launch.folder, worker, job) as session:
            if on_start is not None:
                on_start(session)
            _compute(session, launch)
    except ICLError as error:
        print(error, file=sys.stderr)
        return str(error)
    return ""


def _compute(session: "WorkerSession", launch: Launch) -> None:
    config = launch.config
    grid = expand(parse_config(Document(config["name"], Path(config["folder"]), config["data"])))
    if {cell.digest for cell in grid.cells} != set(launch.cells):
        raise StoreError(
            f"{launch.folder}: code, data or a checkpoint of the experiment changed after the launch. Run the same "
            "command again."
        )
    grid.set_day(run_day(session.store))
    stopping = open_stopping(session.store, grid, may_write=False)
    count = len(launch.workers)
    part, work = restrict_grid(grid, session.store, shard(grid, launch.workers.index(session.worker) + 1, count))
    stopping.restrict(work)
    if work.left:
        progress = LineProgress(out=sys.stderr)
        Runner(
            part, session.store, work, progress, session, worker=session.worker, num_workers=count, stopping=stopping
        ).run()


def shard(grid: Grid, index: int, count: int) -> dict[str, set[str]]:
    """Cell digest -> ids of the queries of shard `index` (from 1) of `count`. All shards together are the grid."""
    items = []
    for model in grid.models:
        of_model = []
        for task in grid.tasks:
            digests = [cell.digest for cell in grid.cells if cell.model is model and cell.task is task]
            of_model += [(digests, query.id) for query in task.queries if digests]
        items += [item for start in range(count) for item in of_model[start::count]]
    queries: dict[str, set[str]] = {}
    for digests, query in items[len(items) * (index - 1) // count : len(items) * index // count]:
        for digest in digests:
            queries.setdefault(digest, set()).add(query)
    return queries


def restrict_grid(grid: Grid, store: Store, queries: Mapping[str, set[str]]) -> tuple[Grid, RunState]:
    """The cells of a shard, and its missing samples. queries: see `shard`."""
    part = replace(grid, cells=tuple(cell for cell in grid.cells if cell.digest in queries))
    work = load_run_state(store, part, grid)
    for digest, ids in queries.items():
        work.missing[digest] &= ids
    work.total = sum(map(len, queries.values()))
    work.present = work.total - sum(map(len, work.missing.values()))
    return part, work


class WorkerSession(CostLog):
    """A worker's state and counters, written to `launch/<worker>.json` every few seconds and at its end.

    A worker that is started again adds to the counters of its earlier sessions.

    Attributes:
        will_restart: Whether the scheduler that stops this worker will start it again.
    """

    def __init__(self, folder: Path, worker: str, job: str = "", beat: float = HEARTBEAT_SECONDS) -> None:
        super().__init__(Store(folder), Invocation(Store(folder), worker))
        self.worker, self.job, self.beat = worker, job, beat
        self.will_restart = False
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._heartbeat, daemon=True)
        self.path = launch_folder(folder) / f"{worker}.json"

    def __enter__(self) -> "WorkerSession":
        previous = read_json(self.path) or {}
        self.previous_counters = {key: previous.get(key, {}) for key in ("counters", "arms")}
        self.content = {
            "state": "running",
            "start": previous.get("start", now()),
            "machine": platform.node(),
            "process": os.getpid(),
            "job": self.job,
            "invocation": self.invocation.id,
        }
        self._write({})
        self.thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ended.set()
        self.thread.join()
        self.content["sentence"] = issubclass(kind, ICLError) if kind else bool(self.stop_reason)
        if self.will_restart and kind in (SystemExit, KeyboardInterrupt):
            self._write({"state": "waiting"})
        else:
            super().__exit__(kind, error, trace)

    def _write(self, more: Mapping[str, Any]) -> None:
        with self.lock:
            self.content |= more
            counted = {key: sum_counters([self.previous_counters[key], of]) for key, of in self.counted().items()}
            write_json(self.path, {**self.content, **counted, "beat": time.time()})
            self.saved = time.monotonic()

    def _heartbeat(self) -> None:
        while not self.ended.wait(self.beat):
            try:
                with self.lock:
                    if not self.ended.is_set():
                        self._write({})
            except StoreError:  # on a full disk the worker stops where it writes samples
                continue


def end_with_parent(pipe: int) -> None:
    """Ends this process when its parent process is gone.

    Args:
        pipe: A pipe. Only the parent has its other end, so the operating system closes it with the parent.
    """
    while os.read(pipe, 1):
        pass
    print("the process that has started this worker is gone.", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """`python -m experiments.launch.worker RUN WORKER`: a worker here, which ends with its standard input."""
    run, worker = sys.argv[1:]
    with interrupt_on(signal.SIGTERM):
        threading.Thread(target=end_with_parent, args=[sys.stdin.fileno()], daemon=True).start()
        return 2 if run_worker(run, worker, str(os.getpid())) else 0


@contextmanager
def interrupt_on(*signals: signal.Signals) -> Iterator[None]:
    """In the block, these signals end the work as Ctrl-C does: finished samples are kept. The exit status is 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the end
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
        for number, handler in before.items():
            signal.signal(number, handler)
    except KeyboardInterrupt as interrupt:
        print(f"stopped by {interrupt or 'SIGINT'}. What is finished is kept.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None


if __name__ == "__main__":
    sys.exit(main())
