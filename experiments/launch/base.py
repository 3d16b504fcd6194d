"""The protocol of launchers, and the files of a launch in the run directory.

A launcher never sees a cell. The coordinating process writes the config into the run directory, and a launcher starts
`experiments.launch.worker.run_worker(folder, name)` for each worker, wherever it likes. All results and states are in
the run directory, next to the samples:

    launch/launch.json     the launcher, its jobs, the config and its cells; a worker without this file does nothing
    launch/<worker>.json   the worker's state and counters, written every few seconds
    launch/<worker>.lock   locked by the worker as long as it lives (a lock of the operating system)
    launch/logs/           output of the workers and of the cluster

Each worker writes samples to `cells/<digest>/<worker>.jsonl`. The end of the launch merges these files.
"""

import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from experiments.config.yaml_document import Document
from experiments.store import read_json, write_json
from icl import StoreError, config_nodes, filelock


@dataclass(frozen=True)
class WorkerStatus:
    """The status of one worker's job. message: how the job ended. log: the file with its output."""

    state: Literal["waiting", "running", "ended"]
    message: str = ""
    log: Path | None = None


def shared_gpus_warning(workers: int, gpus: int, parameter: str) -> str:
    """A sentence if workers share GPUs, '' if each has one or there is none.

    Args:
        workers: Workers on one machine.
        gpus: GPUs of that machine.
        parameter: The parameter that sets the number of workers.
    """
    if not 0 < gpus < workers:
        return ""
    largest = -(-workers // gpus)
    gpu = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
    return (
        f"{workers} workers share {gpu}, so up to {largest} models are loaded on one GPU. Use {parameter}={gpus}, "
        "unless the model is small."
    )


class WorkerGroup(Protocol):
    """The started workers of one launch."""

    @property
    def jobs(self) -> Mapping[str, str]:
        """worker -> name of its job, such as a process id."""

    @property
    def cancel_command(self) -> str:
        """The command that ends the workers; empty if they end with the process that started them."""

    def poll(self) -> Mapping[str, WorkerStatus]:
        """worker -> status. Called every few seconds. Raises ICLError."""

    def detach(self) -> str:
        """Called when the following process stops. Ends the workers, or returns a sentence on what they do next."""


class Launcher(Protocol):
    """A component of kind `launcher`: where workers run. It is not part of a cell: it does not change samples.

    It may have a property `warning`: a sentence that plan and run print, such as that workers share GPUs; '' for none.
    """

    @property
    def workers(self) -> int:
        """How many workers share the grid. 0: the process itself computes everything."""

    @property
    def wait(self) -> bool:
        """Whether the process that starts the workers follows them to their end."""

    def check(self) -> None:
        """Raises ConfigError or PlanError if nothing can be launched from here. Called before any data is read."""

    def start(self, launch: "Launch") -> WorkerGroup:
        """Starts `launch.workers`. Raises PlanError with the cluster's message if it refuses them."""

    def reattach(self, launch: "Launch") -> WorkerGroup | None:
        """The workers that an earlier process started; None if they end with that process."""


HEARTBEAT_SECONDS = 5.0
"""Seconds between two writes of a worker's state."""

HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a heartbeat after which a worker counts as dead. Clocks differ and disks are slow."""

LOCK_TIMEOUT = 10.0
"""Seconds that a worker waits for its own lock, which another process may be testing."""


@dataclass(frozen=True)
class Launch:
    """One launch: worker number i of n computes shard i/n of a run.

    Attributes:
        folder: The run directory.
        id: Different for each launch of a run.
        launcher: The canonical node of the launcher; empty if the shards are started by hand (`icl run --shard i/n`).
        workers: Names of the workers.
        cells: Digests of the grid's cells.
        since: Local time of the launch.
        jobs: Worker -> name of its job (a process id, a number of a cluster's job).
        config: What a worker needs to load the same components: the content of the config file, its name and folder,
            the current folder and `sys.path`.
    """

    folder: Path
    id: str
    launcher: Mapping[str, Any]
    workers: tuple[str, ...]
    cells: tuple[str, ...]
    since: str = ""
    jobs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def new(
        folder: Path, launcher: Mapping[str, Any], count: int, cells: Sequence[str], document: Document | None = None
    ) -> "Launch":
        name = f"{time.time_ns() // 10**6:x}"
        workers = tuple(f"{name}-{i + 1}" for i in range(count))
        launch = Launch(folder, name, launcher, workers, tuple(cells), time.strftime("%Y-%m-%d %H:%M:%S"))
        if document is None:
            return launch
        config = {
            "name": document.name,
            "folder": str(document.folder),
            "data": config_nodes(document.data),
            "cwd": str(Path.cwd()),
            "path": [str(Path(entry or ".").absolute()) for entry in sys.path],
        }
        return replace(launch, config=config)

    @staticmethod
    def read(folder: Path) -> "Launch | None":
        """The launch of a run directory; None if there is none."""
        path = launch_folder(folder) / "launch.json"
        content = read_json(path)
        if content is None:
            return None
        try:
            lists = {key: tuple(content[key]) for key in ("workers", "cells")}
            return Launch(folder, **{**content, **lists})
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error!r}). Remove it if no job of this run is left.") from error

    @property
    def logs(self) -> Path:
        return launch_folder(self.folder) / "logs"

    def write(self) -> None:
        content = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "folder"}
        write_json(launch_folder(self.folder) / "launch.json", content)

    def with_jobs(self, jobs: Mapping[str, str]) -> "Launch":
        """The launch with the names of its jobs, written to its file."""
        launch = replace(self, jobs=dict(jobs))
        launch.write()
        return launch

    def state(self, worker: str) -> dict[str, Any]:
        """The state that a worker has written last; empty before its start."""
        return read_json(launch_folder(self.folder) / f"{worker}.json") or {}

    def give_up(self) -> None:
        """Removes the files of the launch, except logs. A worker that starts later does nothing.

        The file of a later launch stays.
        """
        path = launch_folder(self.folder) / "launch.json"
        if (read_json(path) or {}).get("id", self.id) == self.id:
            path.unlink(missing_ok=True)
        for worker in self.workers:
            for suffix in ("json", "lock"):
                (launch_folder(self.folder) / f"{worker}.{suffix}").unlink(missing_ok=True)


def launch_folder(folder: Path) -> Path:
    """The folder of launch files in a run directory."""
    return folder / "launch"


@contextmanager
def worker_lock(folder: Path, worker: str) -> Iterator[None]:
    """Holds a worker's lock. Raises StoreError if another process is the same worker."""
    lock = filelock.FileLock(launch_folder(folder) / f"{worker}.lock")
    try:
        lock.acquire(timeout=LOCK_TIMEOUT)
    except filelock.Timeout as error:
        raise StoreError(f"another process is the worker {worker} of {folder}.") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def live_workers(launch: Launch) -> list[str]:
    """Workers that hold their lock, as far as this machine can see, or have a recent heartbeat."""
    workers = []
    for worker in launch.workers:
        path = launch_folder(launch.folder) / f"{worker}.lock"
        if not path.exists():
            continue
        try:
            with filelock.FileLock(path).acquire(timeout=0):
                state = launch.state(worker)
                is_remote = state.get("machine") != platform.node()  # locks may not work across machines
                if is_remote and is_alive(state):
                    workers.append(worker)
        except filelock.Timeout:
            workers.append(worker)
    return workers


def is_alive(state: Mapping[str, Any]) -> bool:
    """Whether the state belongs to a running worker with a recent heartbeat."""
    return state.get("state") == "running" and time.time() - float(state.get("beat", 0)) < HEARTBEAT_TIMEOUT
