"""The files of a launch, in the run directory beside the samples.

    launch/launch.json           which launcher, its jobs, the cells; a worker whose launch is not there any more ends
    launch/<worker>.share.json   what one worker has to do, and the config as it was when it was launched
    launch/<worker>.json         how it is getting on, every few seconds, with what it has counted
    launch/<worker>.lock         held by the worker as long as it lives (the operating system's, as the run's own)
    launch/logs/                 what workers and the cluster say

Samples are in `cells/<digest>/<worker>.jsonl`, a file a worker, until the launch is over and they are put together.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.config.yaml_document import Document
from experiments.store.store import write_json
from icl.errors import StoreError

HEARTBEAT_SECONDS = 5.0
"""Seconds between two signs of life of a worker."""

SILENT = 60.0
"""Seconds without one after which a worker is taken for dead: clocks of two machines differ, and disks are slow."""

PATIENCE = 10.0
"""Seconds that a worker waits for its own lock, which may be tried by others."""


@dataclass(frozen=True)
class Launch:
    """One launch. launcher: its canonical node. jobs: worker -> what its job is called. cells: digests of the grid."""

    folder: Path
    id: str
    launcher: Mapping[str, Any]
    workers: tuple[str, ...]
    cells: tuple[str, ...]
    since: str = ""
    jobs: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def new(folder: Path, launcher: Mapping[str, Any], count: int, cells: Sequence[str]) -> "Launch":
        name = f"{time.time_ns() // 10**8:x}"
        workers = tuple(f"{name}-{i + 1}" for i in range(count))
        return Launch(folder, name, launcher, workers, tuple(cells), time.strftime("%Y-%m-%d %H:%M:%S"))

    @staticmethod
    def read(folder: Path) -> "Launch | None":
        """The launch of a run directory; None where there is none, or it was given up."""
        told = read_json(launch_folder(folder) / "launch.json")
        if told is None:
            return None
        try:
            lists = {key: tuple(told[key]) for key in ("workers", "cells")}
            return Launch(folder, told["id"], told["launcher"], **lists, since=told["since"], jobs=told["jobs"])
        except (KeyError, TypeError) as error:
            path = launch_folder(folder) / "launch.json"
            raise StoreError(f"{path} is damaged ({error!r}). Remove it if no job of this run is left.") from error

    @property
    def logs(self) -> Path:
        return launch_folder(self.folder) / "logs"

    def write(self) -> None:
        keys = ("id", "launcher", "workers", "cells", "since", "jobs")
        write_json(launch_folder(self.folder) / "launch.json", {key: getattr(self, key) for key in keys})

    def with_jobs(self, jobs: Mapping[str, str]) -> "Launch":
        """The same with the names of its jobs, written down."""
        named = replace(self, jobs=dict(jobs))
        named.write()
        return named

    def write_share(self, worker: str, blocks: Sequence[Mapping[str, Any]], document: Document) -> None:
        told = {
            "blocks": blocks,
            "config": {"name": document.name, "folder": str(document.folder), "data": document.data},
            "place": str(Path.cwd()),
            "path": [str(Path(entry or ".").absolute()) for entry in sys.path],
            "workers": len(self.workers),
        }
        write_json(launch_folder(self.folder) / f"{worker}.share.json", told)

    def state(self, worker: str) -> dict[str, Any]:
        """How a worker is getting on, as it last said; nothing where it has not begun."""
        return read_json(launch_folder(self.folder) / f"{worker}.json") or {}

    def give_up(self) -> None:
        """Its workers are none any more: one that still starts ends at once. Logs are kept."""
        (launch_folder(self.folder) / "launch.json").unlink(missing_ok=True)
        for worker in self.workers:
            for end in ("share.json", "json", "lock"):
                (launch_folder(self.folder) / f"{worker}.{end}").unlink(missing_ok=True)


def launch_folder(folder: Path) -> Path:
    """Of the files of a run's launch."""
    return folder / "launch"


def read_share(folder: Path, worker: str) -> dict[str, Any] | None:
    """What a worker has to do; None where its launch was given up."""
    launch = Launch.read(folder)
    current = launch is not None and worker in launch.workers
    return read_json(launch_folder(folder) / f"{worker}.share.json") if current else None


@contextmanager
def worker_lock(folder: Path, worker: str) -> Iterator[None]:
    """Held by a worker. Raises StoreError where another process is the same worker."""
    from filelock import FileLock, Timeout

    lock = FileLock(launch_folder(folder) / f"{worker}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise StoreError(f"another process is the worker {worker} of {folder}.") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def live_workers(launch: Launch) -> list[str]:
    """Workers of a launch that hold their lock, as far as this machine can see, or have given a sign of life."""
    from filelock import FileLock, Timeout

    found = []
    for worker in launch.workers:
        path = launch_folder(launch.folder) / f"{worker}.lock"
        if not path.exists():
            continue
        try:
            with FileLock(path).acquire(timeout=0):
                far = launch.state(worker).get("machine") != os.uname().nodename  # its lock may not reach us
                if far and is_alive(launch.state(worker)):
                    found.append(worker)
        except Timeout:
            found.append(worker)
    return found


def is_alive(state: Mapping[str, Any]) -> bool:
    """Whether a worker that said this is at work."""
    return state.get("state") == "running" and time.time() - float(state.get("beat", 0)) < SILENT


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is nothing, or what stands there is being replaced on a disk that is far away."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None
