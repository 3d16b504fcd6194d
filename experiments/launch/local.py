"""Launch on this machine: in the process itself, or in several that share its GPUs and cores."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from experiments.launch.base import WorkerGroup, WorkerStatus
from icl.constraints import PositiveInt
from icl.registry import component, parameter

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch

DEVICES = "CUDA_VISIBLE_DEVICES"

END = 30.0
"""Seconds in which a worker that is told to end comes to a place where it can."""


@component("launcher", "local")
@dataclass(frozen=True)
class Local:
    """On this machine: one process (default), or several that share the grid, its GPUs and its cores."""

    wait: ClassVar[bool] = True

    processes: PositiveInt = parameter("workers", 1)  # processes that share the grid; each loads the model

    @property
    def workers(self) -> int:
        return self.processes if self.processes > 1 else 0

    def check(self) -> None:
        """It is always possible."""

    def start(self, launch: "Launch") -> WorkerGroup:
        launch.logs.mkdir(parents=True, exist_ok=True)
        crew = ProcessGroup({}, launch.logs)
        for worker, more in zip(launch.workers, worker_environments(len(launch.workers), visible_gpus()), strict=True):
            words = [str(launch.folder.absolute()), worker, str(os.getpid())]
            with crew.log(worker).open("ab") as log:
                crew.running[worker] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "experiments.launch.worker", *words],
                    env={**os.environ, **more},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the process that follows them; it ends them
                )
        return crew

    def reattach(self, launch: "Launch") -> WorkerGroup | None:
        return None


@dataclass
class ProcessGroup:
    """Workers as processes of this machine, which end with the process that started them."""

    running: dict[str, "subprocess.Popen[bytes]"]
    logs: Path
    cancel_command: str = ""

    @property
    def jobs(self) -> Mapping[str, str]:
        return {worker: str(process.pid) for worker, process in self.running.items()}

    def log(self, worker: str) -> Path:
        return self.logs / f"{worker}.log"

    def poll(self) -> Mapping[str, WorkerStatus]:
        return {worker: self._job(worker, process.poll()) for worker, process in self.running.items()}

    def detach(self) -> str:
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + END
        for process in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return ""

    def _job(self, worker: str, code: int | None) -> WorkerStatus:
        if code is None:
            return WorkerStatus("running")
        words = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return WorkerStatus("ended", words, self.log(worker))


def visible_gpus() -> list[str]:
    """The devices that processes here may use, without loading anything that would take hold of them."""
    if DEVICES in os.environ:
        return [one.strip() for one in os.environ[DEVICES].split(",") if one.strip()]
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(line for line in told.splitlines() if line.startswith("GPU "))]


def worker_environments(workers: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Of each worker: its part of the devices (in turn, where there are fewer than workers) and of the cores."""
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cores() // workers))}
    if not devices:
        return [threads] * workers
    of = [devices[i::workers] or [devices[i % len(devices)]] for i in range(workers)]
    return [{**threads, DEVICES: ",".join(mine)} for mine in of]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
