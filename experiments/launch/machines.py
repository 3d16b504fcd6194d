"""Workers on this machine, and on a cluster of Ray."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from experiments.launch.base import Launch, WorkerGroup, WorkerStatus, launch_folder, shared_gpus_warning
from icl import Count, NonNegative, PlanError, PositiveInt, component, parameter, ray

DEVICES = "CUDA_VISIBLE_DEVICES"

TERMINATE_SECONDS = 30.0
"""Seconds from SIGTERM until a worker that has not ended gets SIGKILL."""


@component("launcher", "local")
@dataclass(frozen=True)
class Local:
    """Processes of this machine that share the grid, its GPUs and its cores. By default one process does all."""

    wait: ClassVar[bool] = True

    processes: PositiveInt = parameter("workers", 1)  # number of processes that share the grid; each loads the model

    @property
    def workers(self) -> int:
        return self.processes if self.processes > 1 else 0

    @property
    def warning(self) -> str:
        """A sentence if there are more workers than GPUs here."""
        gpus = len(visible_gpus()) if self.workers else 0
        return shared_gpus_warning(self.workers, gpus, "launcher.workers")

    def check(self) -> None:
        """Nothing to check: this machine can always start processes."""

    def start(self, launch: Launch) -> WorkerGroup:
        launch.logs.mkdir(parents=True, exist_ok=True)
        group = ProcessGroup({}, launch.logs)
        environments = worker_environments(len(launch.workers), visible_gpus())
        for worker, environment in zip(launch.workers, environments, strict=True):
            arguments = [str(launch.folder.absolute()), worker]
            with group.log(worker).open("ab") as log:
                group.processes[worker] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "experiments.launch.worker", *arguments],
                    env={**os.environ, **environment},
                    stdin=subprocess.PIPE,  # the worker ends when this process, and so the pipe, is gone
                    stdout=log,
                    stderr=log,
                    # Ctrl-C goes to the process that follows them, and that one ends them.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
                )
        return group

    def reattach(self, launch: Launch) -> WorkerGroup | None:
        return None


@dataclass
class ProcessGroup:
    """Workers as processes of this machine. They end with the process that started them."""

    processes: dict[str, "subprocess.Popen[bytes]"]
    logs: Path
    cancel_command: str = ""

    @property
    def jobs(self) -> Mapping[str, str]:
        return {worker: str(process.pid) for worker, process in self.processes.items()}

    def log(self, worker: str) -> Path:
        return self.logs / f"{worker}.log"

    def poll(self) -> Mapping[str, WorkerStatus]:
        return {worker: self._status(worker, process.poll()) for worker, process in self.processes.items()}

    def detach(self) -> str:
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + TERMINATE_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return ""

    def _status(self, worker: str, code: int | None) -> WorkerStatus:
        if code is None:
            return WorkerStatus("running")
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return WorkerStatus("ended", how, self.log(worker))


def visible_gpus() -> list[str]:
    """The GPUs that processes here may use. Loads no library that would allocate memory on them."""
    if DEVICES in os.environ:
        return [device.strip() for device in os.environ[DEVICES].split(",") if device.strip()]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def worker_environments(workers: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Environment variables of each worker: its part of the devices and the cores.

    Workers share devices in turn if there are fewer devices than workers.
    """
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cores() // workers))}
    if not devices:
        return [threads] * workers
    devices_of = [devices[i::workers] or [devices[i % len(devices)]] for i in range(workers)]
    return [{**threads, DEVICES: ",".join(own)} for own in devices_of]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CONNECT_TIMEOUT = 10.0
"""Seconds in which the address of a cluster must answer."""


@component("launcher", "ray")
@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster that share the grid (the extra `ray`).

    Launch as tasks of a Ray cluster (ray.io). All machines of the cluster must see the run directory.

    Ray restarts a task that dies with its machine, and the task continues where it was.
    """

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
