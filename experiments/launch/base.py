"""The protocol of launchers: how many workers share a grid, how to start them, and their status.

A launcher never sees a cell. The coordinating process writes each worker's share into the run directory
(`experiments.launch.launch_files`). A worker calls `experiments.launch.worker.run_worker(folder, name)` wherever the
launcher starts it. All results and states are in the run directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch


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
        ...

    @property
    def cancel_command(self) -> str:
        """The command that ends the workers; empty if they end with the process that started them."""
        ...

    def poll(self) -> Mapping[str, WorkerStatus]:
        """worker -> status. Called every few seconds. Raises ICLError."""
        ...

    def detach(self) -> str:
        """Called when the following process stops. Ends the workers, or returns a sentence on what they do next."""
        ...


class Launcher(Protocol):
    """A component of kind `launcher`: where workers run. It is not part of a cell: it does not change samples.

    It may have a property `warning`: a sentence that plan and run print, such as that workers share GPUs; '' for none.
    """

    @property
    def workers(self) -> int:
        """How many workers share the grid. 0: the process itself computes everything."""
        ...

    @property
    def wait(self) -> bool:
        """Whether the process that starts the workers follows them to their end."""
        ...

    def check(self) -> None:
        """Raises ConfigError or PlanError if nothing can be launched from here. Called before any data is read."""
        ...

    def start(self, launch: "Launch") -> WorkerGroup:
        """Starts `launch.workers`. Raises PlanError with the cluster's message if it refuses them."""
        ...

    def reattach(self, launch: "Launch") -> WorkerGroup | None:
        """The workers that an earlier process started; None if they end with that process."""
        ...
