"""One worker of a launch: computes its share of the grid into files of its own, and says how it is getting on.

It reads its share and the config from the run directory and works as a run does. Stopped in any way, what it finished
is kept, and the same worker started again does the rest of its share.
"""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.config.config import parse_config
from experiments.config.yaml_document import Document
from experiments.grid.grid import Grid, expand
from experiments.launch import launch_files as files
from experiments.running.run_session import CostLog
from experiments.running.runner import Runner
from experiments.store.environment import now
from experiments.store.run_state import RunState, load_run_state
from experiments.store.store import Store, write_json
from experiments.terminal.progress import LineProgress
from icl.errors import ICLError, StoreError

AGAIN = 5.0
"""Seconds that a share is looked for: on a disk that is far away it may come later than the job."""


def run_worker(run: str, worker: str, job: str = "", on_start: "Callable[[WorkerSession], None] | None" = None) -> str:
    """Brings a share to its end; nothing where its launch was given up. What stopped it, in a sentence, or ''.

    on_start: told of the shift, before anything is loaded.
    """
    folder = Path(run).absolute()
    share = _share(folder, worker)
    if share is None:
        print(f"{folder}: the launch of worker {worker} was given up. Nothing is done.", file=sys.stderr)
        return ""
    with files.worker_lock(folder, worker):
        if files.read_share(folder, worker) is None:
            return ""
        return _at_work(folder, worker, job, share, on_start)


def _at_work(
    folder: Path, worker: str, job: str, share: Mapping[str, Any], on_start: "Callable[[WorkerSession], None] | None"
) -> str:
    os.chdir(share["place"])
    sys.path += [entry for entry in share["path"] if entry not in sys.path]
    try:
        with WorkerSession(folder, worker, job) as shift:
            if on_start is not None:
                on_start(shift)
            _compute(shift, share)
    except ICLError as error:
        print(error, file=sys.stderr)
        return str(error)
    return ""


def _compute(shift: "WorkerSession", share: Mapping[str, Any]) -> None:
    told = share["config"]
    grid = expand(parse_config(Document(told["name"], Path(told["folder"]), told["data"])))
    grid, work = restrict_grid(grid, shift.store, share["blocks"])
    if work.left:
        progress = LineProgress(out=sys.stderr)
        Runner(grid, shift.store, work, progress, shift, worker=shift.worker, of=share["workers"]).outcome()


def restrict_grid(grid: Grid, store: Store, blocks: list[Mapping[str, Any]]) -> tuple[Grid, RunState]:
    """The cells of a share, and what is left of it. Raises StoreError where they are no cells of the grid any more."""
    queries: dict[str, set[str]] = {}
    for block in blocks:
        for digest in block["cells"]:
            queries.setdefault(digest, set()).update(block["queries"])
    cells = tuple(cell for cell in grid.cells if cell.digest in queries)
    if len(cells) < len(queries):
        raise StoreError(
            f"{store.folder}: {len(queries) - len(cells)} cells of this share are not of the experiment as it is here "
            "and now: code, data or a checkpoint has changed since it was launched. Run the same command again."
        )
    own = replace(grid, cells=cells)
    found = load_run_state(store, own, grid)
    for digest, wanted in queries.items():
        found.missing[digest] &= wanted
    found.total = sum(map(len, queries.values()))
    found.present = found.total - sum(map(len, found.missing.values()))
    return own, found


class WorkerSession(CostLog):
    """What a worker says of itself, every few seconds and at its end, in `launch/<worker>.json`.

    waits: whether it will be started again by whoever stops it. What earlier shifts of the worker counted is kept.
    """

    def __init__(self, folder: Path, worker: str, job: str = "", beat: float = files.HEARTBEAT_SECONDS) -> None:
        super().__init__(Store(folder))
        self.worker, self.job, self.beat = worker, job, beat
        self.waits = False
        self.lock = threading.RLock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beats, daemon=True)
        self.path = files.launch_folder(folder) / f"{worker}.json"

    def __enter__(self) -> "WorkerSession":
        before = files.read_json(self.path) or {}
        self.before = {key: before.get(key, {}) for key in ("counters", "arms")}
        self.told = {
            "state": "running",
            "start": before.get("start", now()),
            "machine": platform.node(),
            "process": os.getpid(),
            "job": self.job,
        }
        self._write({})
        self.thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.over.set()
        self.thread.join()
        self.told["sentence"] = kind is not None and issubclass(kind, ICLError)
        if self.waits and kind is SystemExit:
            self._write({"state": "waiting"})
        else:
            super().__exit__(kind, error, trace)

    def _write(self, more: Mapping[str, Any]) -> None:
        with self.lock:
            self.told |= more
            told = {key: sum_counters([self.before[key], of]) for key, of in self.counted().items()}
            write_json(self.path, {**self.told, **told, "beat": time.time()})
            self.saved = time.monotonic()

    def _beats(self) -> None:
        while not self.over.wait(self.beat):
            try:
                with self.lock:
                    if not self.over.is_set():
                        self._write({})
            except StoreError:  # a full disk stops the worker where it writes samples
                continue


def sum_counters(told: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Counters added up, by name; mappings of them by theirs."""
    found: dict[str, Any] = {}
    for one in told:
        for name, value in one.items():
            found[name] = (
                sum_counters([found.get(name, {}), value]) if isinstance(value, Mapping) else found.get(name, 0) + value
            )
    return found


@dataclass(frozen=True)
class ParentWatch:
    """Ends this process when the one that started it is gone."""

    process: int

    def watch(self, every: float = 1.0) -> None:
        while os.getppid() == self.process:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """`python -m experiments.launch.worker RUN WORKER PARENT`: a worker on this machine."""
    run, worker, parent = sys.argv[1:]
    with interrupt_on(signal.SIGTERM):
        threading.Thread(target=ParentWatch(int(parent)).watch, daemon=True).start()
        return 2 if run_worker(run, worker, str(os.getpid())) else 0


@contextmanager
def interrupt_on(*signals: int) -> Iterator[None]:
    """These signals end the work as Ctrl-C does: what is finished is kept, and the worker says that it was stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the end short
        raise KeyboardInterrupt

    for one in signals:
        signal.signal(one, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("stopped. What is finished is kept.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None


def _share(folder: Path, worker: str) -> dict[str, Any] | None:
    deadline = time.monotonic() + AGAIN
    while (share := files.read_share(folder, worker)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return share


if __name__ == "__main__":
    sys.exit(main())
