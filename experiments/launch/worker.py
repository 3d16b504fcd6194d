"""One worker of a launch: computes its share of the grid into its own files and writes its state.

It reads its share and the config from the run directory and works as a run in one process does. If it is stopped, it
keeps what it has finished. The same worker started again computes the rest of its share.
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

from experiments.config.config import parse_config
from experiments.config.yaml_document import Document
from experiments.grid.grid import Grid, expand
from experiments.launch import launch_files as files
from experiments.running.run_session import CostLog, sum_counters
from experiments.running.runner import Runner
from experiments.stopping.stopping import open_stopping
from experiments.store.invocations import Invocation, now
from experiments.store.run_state import RunState, load_run_state
from experiments.store.store import Store, write_json
from experiments.terminal.progress import LineProgress
from icl.errors import ICLError, StoreError

SHARE_TIMEOUT = 5.0
"""Seconds that a worker waits for its share. On a slow network disk the file may come later than the job."""

OnStart = Callable[["WorkerSession"], None]
"""Called with the session of a worker before it loads anything."""


def run_worker(run: str, worker: str, job: str = "", on_start: OnStart | None = None) -> str:
    """Computes a worker's share.

    Args:
        run: The run directory.
        worker: The worker's name in the launch.
        job: What the launcher calls the job.
        on_start: Called with the worker's session before anything is loaded.

    Returns:
        Why the worker did not finish its share, in a sentence; '' if it did.

    Raises:
        StoreError: Another process is the same worker.
    """
    folder = Path(run).absolute()
    given_up = f"{folder}: the launch of worker {worker} was given up. Nothing is done."
    if (share := _wait_for_share(folder, worker)) is None:
        print(given_up, file=sys.stderr)
        return given_up
    with files.worker_lock(folder, worker):
        if files.read_share(folder, worker) is None:
            print(given_up, file=sys.stderr)
            return given_up
        return _run_share(folder, worker, job, share, on_start)


def _wait_for_share(folder: Path, worker: str) -> dict[str, Any] | None:
    deadline = time.monotonic() + SHARE_TIMEOUT
    while (share := files.read_share(folder, worker)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return share


def _run_share(folder: Path, worker: str, job: str, share: Mapping[str, Any], on_start: OnStart | None) -> str:
    os.chdir(share["place"])
    sys.path += [entry for entry in share["path"] if entry not in sys.path]
    try:
        with WorkerSession(folder, worker, job) as session:
            if on_start is not None:
                on_start(session)
            _compute(session, share)
    except ICLError as error:
        print(error, file=sys.stderr)
        return str(error)
    return ""


def _compute(session: "WorkerSession", share: Mapping[str, Any]) -> None:
    document = share["config"]
    grid = expand(parse_config(Document(document["name"], Path(document["folder"]), document["data"])))
    stopping = open_stopping(session.store, grid, may_write=False)
    grid, work = restrict_grid(grid, session.store, share["blocks"])
    if work.left:
        runner = Runner(
            grid,
            session.store,
            work,
            LineProgress(out=sys.stderr),
            session,
            worker=session.worker,
            num_workers=share["workers"],
            stopping=stopping,
        )
        runner.run()


def restrict_grid(grid: Grid, store: Store, blocks: list[Mapping[str, Any]]) -> tuple[Grid, RunState]:
    """The cells of a share, and the samples of the share that are missing.

    Raises:
        StoreError: Cells or queries of the share are not in the grid any more.
    """
    queries: dict[str, set[str]] = {}
    for block in blocks:
        for digest in block["cells"]:
            queries.setdefault(digest, set()).update(block["queries"])
    share = replace(grid, cells=tuple(cell for cell in grid.cells if cell.digest in queries))
    lost_cells = len(queries) - len(share.cells)
    query_ids = {id(task): {query.id for query in task.queries} for task in share.tasks}
    lost_queries = set().union(*(queries[cell.digest] - query_ids[id(cell.task)] for cell in share.cells))
    if lost_cells or lost_queries:
        lost = f"{lost_cells} cells" if lost_cells else f"{len(lost_queries)} queries"
        raise StoreError(
            f"{store.folder}: {lost} of this share are not part of the current experiment: code, data or a checkpoint "
            "changed after the launch. Run the same command again."
        )
    work = load_run_state(store, share, grid)
    for digest, ids in queries.items():
        work.missing[digest] &= ids
    work.total = sum(map(len, queries.values()))
    work.present = work.total - sum(map(len, work.missing.values()))
    return share, work


class WorkerSession(CostLog):
    """A worker's state and counters, written to `launch/<worker>.json` every few seconds and at its end.

    A worker that is started again adds to the counters of its earlier sessions.

    Attributes:
        will_restart: Whether the scheduler that stops this worker will start it again.
    """

    def __init__(self, folder: Path, worker: str, job: str = "", beat: float = files.HEARTBEAT_SECONDS) -> None:
        super().__init__(Store(folder), Invocation(Store(folder), worker))
        self.worker, self.job, self.beat = worker, job, beat
        self.will_restart = False
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._heartbeat, daemon=True)
        self.path = files.launch_folder(folder) / f"{worker}.json"

    def __enter__(self) -> "WorkerSession":
        previous = files.read_json(self.path) or {}
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
        pipe: A pipe whose other end the parent alone has, so that the operating system closes it with the parent.
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

    for number in signals:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(f"stopped by {interrupt or 'SIGINT'}. What is finished is kept.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None


if __name__ == "__main__":
    sys.exit(main())
