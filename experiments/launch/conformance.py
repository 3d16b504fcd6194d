"""The conformance check of launchers (`icl check launcher`).

    facts = check_launcher(Mine(workers=2))

The check starts real workers. They compute a small experiment on a model without weights, and the samples must equal
the samples of a single process. Then it starts workers and detaches from them at once. Both runs are in a temporary
folder in the current folder, so that workers see it as they see a run.
"""

import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.config import Document, load_config, parse_config
from experiments.grid.grid import Grid, expand
from experiments.launch.base import Launch, Launcher, WorkerGroup, WorkerStatus
from experiments.launch.coordinator import death_messages, finish_launch, start_workers
from experiments.running.run import run
from experiments.store import Store, json_round_trip, load_run_state, write_cells, write_lock
from icl import ConfigError, ICLError, build, describe
from icl.loading import component_search_folder
from icl.testing.require import accepts_class, require

Jobs = Mapping[str, WorkerStatus]
EXPERIMENT: Mapping[str, Any] = {
    "task": {"name": "binding", "queries": 8},
    "model": "fake-copy",
    "seeds": [0, 1],
    "grid": {"shots": [0, 2]},
}
PATIENCE = 600.0
"""Seconds in which the workers must end, including the time in a cluster's queue."""
STATUS_TIMEOUT = 60.0
"""Seconds in which a launcher must report that jobs have ended."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class LauncherFacts:
    """The measurements of `check_launcher`.

    Attributes:
        workers: Number of workers.
        samples: Number of samples that they computed.
        seconds: Time until they had ended.
        detach_message: What `detach` returned.
        follows: Whether another process can follow the workers.
        not_started: Why no worker was started; '' if they were.
    """

    workers: int = 0
    samples: int = 0
    seconds: float = 0.0
    detach_message: str = ""
    follows: bool = False
    not_started: str = ""

    def describe(self) -> str:
        """The facts in one line."""
        if self.not_started:
            return f"nothing was started: {self.not_started}"
        after = (
            "they can be followed by another process" if self.follows else "they end with the process that started them"
        )
        left = f" Left alone: {self.detach_message}" if self.detach_message else ""
        return (
            f"{self.workers} workers, {self.samples} samples as one process writes them, in {self.seconds:.1f} s; "
            f"{after}.{left}"
        )


@accepts_class
def check_launcher(launcher: Launcher, patience: float = PATIENCE) -> LauncherFacts:
    """Checks a launcher by running workers.

    Args:
        launcher: The launcher.
        patience: Seconds in which its workers must end.

    Raises:
        AssertionError: The launcher breaks a rule, or its workers do not end. The message is a sentence.
        ConfigError: The current folder cannot be written.
    """
    name = type(launcher).__name__
    _check_component(name, launcher)
    try:
        launcher.check()
    except ICLError as error:
        return LauncherFacts(not_started=str(error))
    if not launcher.workers:
        return LauncherFacts(not_started="one process computes the whole run. Check it with several workers.")
    try:
        temporary = TemporaryDirectory(prefix="icl-check-", dir=Path.cwd(), ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{Path.cwd()} cannot be written ({reason}), and the check of a launcher writes there."
        ) from error
    with temporary as folder:
        return _run_check(name, launcher, Path(folder), patience)


def _check_component(name: str, launcher: Launcher) -> None:
    members = ("workers", "wait", "check", "start", "reattach")
    missing = [member for member in members if getattr(launcher, member, None) is None]
    require(not missing, f"{name} lacks {', '.join(missing)} of the protocol experiments.launch.base.Launcher.")
    workers: Any = launcher.workers
    require(type(workers) is int and workers >= 0, f"{name}.workers is {workers!r}, not a number of workers.")
    require(isinstance(launcher.wait, bool), f"{name}.wait is {launcher.wait!r}, not true or false.")
    node = json_round_trip(describe(launcher))
    with component_search_folder(_class_folder(launcher)):
        again = build("launcher", json.loads(json.dumps(_node(launcher))))
    is_equal = json_round_trip(describe(again)) == node
    require(is_equal, f"{name} changes when it is read from a run directory.")


def _run_check(name: str, launcher: Launcher, folder: Path, patience: float) -> LauncherFacts:
    reference = run(load_config({"name": "here", **EXPERIMENT}), folder)
    start = time.monotonic()
    launch, group, grid = _start_workers(launcher, folder, "launched")
    _check_group(name, launch, group)
    jobs = _wait_until_ended(name, launch, group, patience)
    problem = next(death_messages(launch, jobs), "")
    require(not problem, f"{name}: {problem}")
    seconds = time.monotonic() - start
    _wait_for_status(name, group)
    finish_launch(Store(launch.folder), grid, launch, "finished")
    require(
        _samples(launch.folder) == _samples(reference.folder),
        f"{name}: its workers wrote other samples than one process.",
    )
    follower = launcher.reattach(launch)
    if follower is not None:
        _check_group(name, launch, follower)
        _wait_for_status(name, follower)
    left = _detach_message(name, launcher, folder, patience)
    return LauncherFacts(len(launch.workers), reference.samples, seconds, left, follower is not None)


def _detach_message(name: str, launcher: Launcher, folder: Path, patience: float) -> str:
    """What detach() returns for workers that have just started. If it is empty, they must have ended."""
    launch, group, grid = _start_workers(launcher, folder, "left")
    message = group.detach()
    require(isinstance(message, str), f"{name}: detach() returned {message!r}, not a sentence or ''.")
    if message:
        _wait_until_ended(name, launch, group, patience)
    _wait_for_status(name, group)
    finish_launch(Store(launch.folder), grid, launch, "interrupted")
    return message


def _start_workers(launcher: Launcher, folder: Path, run_name: str) -> tuple[Launch, WorkerGroup, Grid]:
    """Starts the launcher's workers on a run of the experiment."""
    data = {"name": run_name, **EXPERIMENT, "launcher": _node(launcher)}
    grid = expand(parse_config(Document("check", _class_folder(launcher), data)))
    with write_lock(folder / run_name):
        store = Store(folder / run_name)
        write_cells(store, grid)
        return (*start_workers(store, grid, load_run_state(store, grid)), grid)


def _node(launcher: Launcher) -> dict[str, Any]:
    """The launcher as a config names it."""
    return {key: value for key, value in json_round_trip(describe(launcher)).items() if key != "code"}


def _class_folder(launcher: Launcher) -> Path:
    """The folder of the launcher's class, where a config that names the file would be."""
    return Path(inspect.getfile(type(launcher))).parent


def _check_group(name: str, launch: Launch, group: WorkerGroup) -> None:
    jobs = group.jobs
    require(
        set(jobs) == set(launch.workers), f"{name}: jobs are of {sorted(jobs)}, and the workers are {launch.workers}."
    )
    unnamed = [worker for worker, job in jobs.items() if not (isinstance(job, str) and job)]
    require(not unnamed, f"{name}: the job of {unnamed} has no name.")
    require(
        isinstance(group.cancel_command, str),
        f"{name}: cancel_command is {group.cancel_command!r}, not a command or ''.",
    )
    _poll(name, group)


def _poll(name: str, group: WorkerGroup) -> Jobs:
    jobs = group.poll()
    require(
        set(jobs) == set(group.jobs), f"{name}: poll() reports {sorted(jobs)}, and the jobs are {sorted(group.jobs)}."
    )
    odd = [
        job
        for job in jobs.values()
        if not isinstance(job, WorkerStatus) or job.state not in ("waiting", "running", "ended")
    ]
    require(
        not odd,
        f"{name}: poll() has {odd}, which is not an experiments.launch.base.WorkerStatus "
        "with the state waiting, running or ended.",
    )
    return jobs


def _wait_until_ended(name: str, launch: Launch, group: WorkerGroup, patience: float) -> Jobs:
    """Waits until every worker has written its last state or its job has ended."""

    def is_over(jobs: Jobs) -> bool:
        last = {worker: launch.state(worker).get("state") for worker in launch.workers}
        return all(last[worker] == "finished" or jobs[worker].state == "ended" for worker in launch.workers)

    jobs = _wait(name, group, patience, is_over)
    if not is_over(jobs):
        group.detach()
        states = ", ".join(f"{worker} {jobs[worker].state}" for worker in launch.workers)
        raise AssertionError(f"{name}: its workers did not come to an end in {patience:g} s ({states}).")
    return jobs


def _wait_for_status(name: str, group: WorkerGroup) -> None:
    """Waits until the launcher reports that every job has ended."""
    jobs = _wait(name, group, STATUS_TIMEOUT, lambda jobs: all(job.state == "ended" for job in jobs.values()))
    active = [worker for worker, job in jobs.items() if job.state != "ended"]
    require(not active, f"{name}: poll() does not report that the jobs of {active} have ended.")


def _wait(name: str, group: WorkerGroup, seconds: float, is_over: Callable[[Jobs], bool]) -> Jobs:
    """Polls until a condition holds or the time is over. Returns the last jobs."""
    deadline = time.monotonic() + seconds
    while not is_over(jobs := _poll(name, group)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return jobs


def _samples(folder: Path) -> dict[str, list[Any]]:
    """Path of a samples file -> its samples, without the invocation that made them."""
    return {
        str(path.relative_to(folder)): [
            json.loads(line) | {"invocation": 0} for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in (folder / "cells").glob("*/*.jsonl")
    }
