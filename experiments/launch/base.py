"""What a launcher is: it says how many workers share a grid, starts them, and says what has become of them.

A launcher never sees a cell. The process that was asked for a run writes each worker's share into the run directory
(`experiments.launch.launch_files`), and a worker is `experiments.launch.worker.run_worker(folder, name)`, called
wherever the launcher brings it to. What they compute, how far they are and how they ended stands in the run directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch


@dataclass(frozen=True)
class WorkerStatus:
    """One worker, as whoever carries it sees it. words: how it ended. log: where its own words are."""

    state: Literal["waiting", "running", "ended"]
    words: str = ""
    log: Path | None = None


class WorkerGroup(Protocol):
    """Workers that were started."""

    @property
    def jobs(self) -> Mapping[str, str]:
        """worker -> what its job is called: a job of a cluster, a process."""
        ...

    @property
    def cancel_command(self) -> str:
        """The command that ends them; empty where they end with the process that started them."""
        ...

    def poll(self) -> Mapping[str, WorkerStatus]:
        """worker -> what it is at. May be asked every few seconds. Raises ICLError."""
        ...

    def detach(self) -> str:
        """Whoever follows the workers stops: ends them, or says in a sentence what they do without him."""
        ...


class Launcher(Protocol):
    """A component of kind `launcher`. It is no part of a cell: the same samples come of any."""

    @property
    def workers(self) -> int:
        """How many share the grid. 0: nobody is started, and the process that was asked does all."""
        ...

    @property
    def wait(self) -> bool:
        """Whether the process that starts the workers follows them to their end."""
        ...

    def check(self) -> None:
        """Raises ConfigError or PlanError where nothing can be launched from here; before anything is read."""
        ...

    def start(self, launch: "Launch") -> WorkerGroup:
        """Starts `launch.workers`. Raises PlanError with the cluster's words where it refuses them."""
        ...

    def reattach(self, launch: "Launch") -> WorkerGroup | None:
        """The crew of an earlier process; None where workers end with the process that started them."""
        ...
