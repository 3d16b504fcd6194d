"""Launch as tasks of a Ray cluster (ray.io). All machines of the cluster must see the run directory.

Ray restarts a task that dies with its machine, and the task continues where it was.
"""

import os
import re
import socket
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from experiments.launch.base import Launch, WorkerGroup, WorkerStatus, launch_folder
from icl import Count, NonNegative, PlanError, PositiveInt, component, ray

CONNECT_TIMEOUT = 10.0
"""Seconds in which the address of a cluster must answer."""


@component("launcher", "ray")
@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster that share the grid (the extra `ray`)."""

    wait: ClassVar[bool] = True

    workers: PositiveInt = 2  # number of tasks that share the grid; each loads the model
    cpus: NonNegative = 1  # CPU cores that Ray reserves for each task
    gpus: NonNegative = 0  # GPUs that Ray reserves for each task
    address: str = ""  # address of the cluster, such as ray://head:10001; empty: $RAY_ADDRESS, or a new local cluster
    retries: Count = 3  # times that Ray restarts a task whose process died

    def check(self) -> None:
        if find_spec("ray") is None:
            raise PlanError('launcher=ray needs the package ray, which is not installed: pip install "mm-icl[ray]".')

    def start(self, launch: Launch) -> WorkerGroup:
        ray = _connect(self.address)
        launch.logs.mkdir(parents=True, exist_ok=True)
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries)(_work)
        run = str(launch.folder.absolute())
        return RayTasks({worker: task.remote(run, worker) for worker in launch.workers}, launch.logs)

    def reattach(self, launch: Launch) -> WorkerGroup | None:
        return None


@dataclass
class RayTasks:
    """Workers as tasks of a Ray cluster. They end with the process that started them."""

    refs: Mapping[str, Any]
    logs: Path
    cancel_command: str = ""

    @property
    def jobs(self) -> Mapping[str, str]:
        return {worker: ref.hex()[:8] for worker, ref in self.refs.items()}

    def poll(self) -> Mapping[str, WorkerStatus]:
        ready, _ = ray.wait(list(self.refs.values()), num_returns=len(self.refs), timeout=0)
        return {
            worker: self._status(worker, ref) if ref in ready else WorkerStatus("running")
            for worker, ref in self.refs.items()
        }

    def detach(self) -> str:
        for ref in self.refs.values():
            ray.cancel(ref, force=True)
        return ""

    def _status(self, worker: str, ref: Any) -> WorkerStatus:
        log = self.logs / f"{worker}.log"
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            return WorkerStatus("ended", str(error).strip().splitlines()[-1], log)
        return WorkerStatus("ended", "", log)


def _connect(address: str) -> Any:
    """The module `ray`, connected to a cluster. Raises PlanError if there is none at the address."""
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or ""
    options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        if match := re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address):  # Ray itself tries for minutes
            socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=CONNECT_TIMEOUT).close()
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise PlanError(f"launcher=ray: no Ray cluster at '{address}': {lines[0] if lines else error}") from error
    return ray


def _work(run: str, worker: str) -> str:
    """One task: one worker, with a log file of its own."""
    from experiments.launch.worker import run_worker

    path = launch_folder(Path(run)) / "logs" / f"{worker}.log"
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        return run_worker(run, worker, "ray")
