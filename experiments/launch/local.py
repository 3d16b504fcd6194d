"""Launch on this machine: in the process itself, or in several processes that share its GPUs and cores."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.launch.base import Launch, WorkerGroup, WorkerStatus, shared_gpus_warning
from icl import PositiveInt, component, parameter

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
