"""What every launcher keeps, for ours and for anyone's (`icl check launcher`).

    facts = check_launcher(Mine(workers=2))

It is tried for real: a small experiment, on a model without weights, is computed by its workers and must be what one
process computes. Then workers are started and left at once. Both runs are in a folder of their own within the current
one, which workers see as they see a run, and which is removed afterwards.
"""

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.config.config import load_config, parse_config
from experiments.config.yaml_document import Document
from experiments.grid.grid import Grid, expand
from experiments.launch.base import Launcher, WorkerGroup, WorkerStatus
from experiments.launch.coordinator import death_messages, finish_launch, start_workers
from experiments.launch.launch_files import Launch
from experiments.running.run import run
from experiments.store.lock import write_lock
from experiments.store.run_state import json_round_trip, load_run_state, write_cells
from experiments.store.store import Store
from icl.errors import ConfigError, ICLError
from icl.loading import component_search_folder
from icl.registry import build, describe

EXPERIMENT: Mapping[str, Any] = {
    "task": {"name": "binding", "queries": 8},
    "model": "fake-copy",
    "seeds": [0, 1],
    "grid": {"shots": [0, 2]},
}
PATIENCE = 600.0
"""Seconds in which the workers of the trial come to their end, a cluster's queue included."""
GONE = 60.0
"""Seconds in which a launcher knows of jobs that have ended or were ended."""
LOOK = 0.2


@dataclass(frozen=True)
class LauncherFacts:
    """What a check found. untried: why nothing was started, or ''. left: what leaving the workers says."""

    workers: int = 0
    samples: int = 0
    seconds: float = 0.0
    left: str = ""
    follows: bool = False
    untried: str = ""

    def describe(self) -> str:
        """The facts in one line."""
        if self.untried:
            return f"nothing was started: {self.untried}"
        after = (
            "they can be followed by another process" if self.follows else "they end with the process that started them"
        )
        left = f" Left alone: {self.left}" if self.left else ""
        return (
            f"{self.workers} workers, {self.samples} samples as one process writes them, in {self.seconds:.1f} s; "
            f"{after}.{left}"
        )


def check_launcher(launcher: Launcher, patience: float = PATIENCE) -> LauncherFacts:
    """Raises AssertionError with a sentence where a promise is broken, or its workers do not come to their end."""
    name = type(launcher).__name__
    _check_component(name, launcher)
    try:
        launcher.check()
    except ICLError as error:
        return LauncherFacts(untried=str(error))
    if not launcher.workers:
        return LauncherFacts(untried="the process that is asked for a run does all of it. Try it with workers.")
    try:
        room = TemporaryDirectory(prefix="icl-check-", dir=Path.cwd(), ignore_cleanup_errors=True)
    except OSError as error:
        told = error.strerror or error
        raise ConfigError(f"{Path.cwd()} cannot be written ({told}), and a launcher is tried in there.") from error
    with room as folder:
        return _tried(name, launcher, Path(folder), patience)


def _check_component(name: str, launcher: Launcher) -> None:
    lacks = [one for one in ("workers", "wait", "check", "start", "reattach") if getattr(launcher, one, None) is None]
    _must(not lacks, f"{name} lacks {', '.join(lacks)} of the protocol experiments.launch.base.Launcher.")
    workers: Any = launcher.workers
    _must(type(workers) is int and workers >= 0, f"{name}.workers is {workers!r}, not a number of workers.")
    _must(isinstance(launcher.wait, bool), f"{name}.wait is {launcher.wait!r}, not true or false.")
    told = json_round_trip(describe(launcher))
    with component_search_folder(_home(launcher)):
        again = build("launcher", json.loads(json.dumps(_node(launcher))))
    _must(
        json_round_trip(describe(again)) == told, f"{name} is another one when it is read from a run directory again."
    )


def _tried(name: str, launcher: Launcher, folder: Path, patience: float) -> LauncherFacts:
    here = run(load_config({"name": "here", **EXPERIMENT}), folder)
    begun = time.monotonic()
    one, crew, launched = _started(launcher, folder, "launched")
    _check_crew(name, one, crew)
    jobs = _until_ended(name, one, crew, patience)
    problem = next(death_messages(one, jobs), "")
    _must(not problem, f"{name}: {problem}")
    seconds = time.monotonic() - begun
    _until_known(name, crew)
    finish_launch(Store(one.folder), launched, one, "finished")
    _must(_samples(one.folder) == _samples(here.folder), f"{name}: its workers wrote other samples than one process.")
    follower = launcher.reattach(one)
    if follower is not None:
        _check_crew(name, one, follower)
        _until_known(name, follower)
    return LauncherFacts(
        len(one.workers), here.samples, seconds, _left(name, launcher, folder, patience), follower is not None
    )


def _left(name: str, launcher: Launcher, folder: Path, patience: float) -> str:
    """What detach() says of workers that have just begun. Where it says nothing, they have ended."""
    one, crew, grid = _started(launcher, folder, "left")
    words = crew.detach()
    _must(isinstance(words, str), f"{name}: detach() gave {words!r}, not a sentence or ''.")
    if words:
        _until_ended(name, one, crew, patience)
    _until_known(name, crew)
    finish_launch(Store(one.folder), grid, one, "interrupted")
    return words


def _started(launcher: Launcher, folder: Path, run_name: str) -> tuple[Launch, WorkerGroup, Grid]:
    """A run of the experiment with the launcher's workers at it."""
    told = {"name": run_name, **EXPERIMENT, "launcher": _node(launcher)}
    grid = expand(parse_config(Document("check", _home(launcher), told)))
    with write_lock(folder / run_name):
        store = Store(folder / run_name)
        write_cells(store, grid)
        return (*start_workers(store, grid, load_run_state(store, grid)), grid)


def _node(launcher: Launcher) -> dict[str, Any]:
    """As a config names it."""
    return {key: value for key, value in json_round_trip(describe(launcher)).items() if key != "code"}


def _home(launcher: Launcher) -> Path:
    """The folder of its class, where a config would stand that names its file."""
    return Path(inspect.getfile(type(launcher))).parent


def _check_crew(name: str, one: Launch, crew: WorkerGroup) -> None:
    jobs = crew.jobs
    _must(set(jobs) == set(one.workers), f"{name}: jobs are of {sorted(jobs)}, and the workers are {one.workers}.")
    unnamed = [worker for worker, job in jobs.items() if not (isinstance(job, str) and job)]
    _must(not unnamed, f"{name}: the job of {unnamed} has no name.")
    _must(
        isinstance(crew.cancel_command, str), f"{name}: cancel_command is {crew.cancel_command!r}, not a command or ''."
    )
    _look(name, crew)


def _look(name: str, crew: WorkerGroup) -> Mapping[str, WorkerStatus]:
    jobs = crew.poll()
    _must(set(jobs) == set(crew.jobs), f"{name}: poll() tells of {sorted(jobs)}, and the jobs are {sorted(crew.jobs)}.")
    odd = [
        job
        for job in jobs.values()
        if not isinstance(job, WorkerStatus) or job.state not in ("waiting", "running", "ended")
    ]
    _must(
        not odd,
        f"{name}: poll() has {odd}, which is no experiments.launch.base.WorkerStatus that waits, runs or has ended.",
    )
    return jobs


def _until_ended(name: str, one: Launch, crew: WorkerGroup, patience: float) -> Mapping[str, WorkerStatus]:
    """Until every worker has said its last words, or its job has ended without."""
    deadline = time.monotonic() + patience
    while True:
        jobs = _look(name, crew)
        last = {worker: one.state(worker).get("state") for worker in one.workers}
        if all(last[worker] == "finished" or jobs[worker].state == "ended" for worker in one.workers):
            return jobs
        if time.monotonic() > deadline:
            crew.detach()
            at_it = ", ".join(f"{worker} {jobs[worker].state}" for worker in one.workers)
            raise AssertionError(f"{name}: its workers did not come to an end in {patience:g} s ({at_it}).")
        time.sleep(LOOK)


def _until_known(name: str, crew: WorkerGroup) -> Mapping[str, WorkerStatus]:
    """Until the launcher says of every job that it has ended."""
    deadline = time.monotonic() + GONE
    while True:
        jobs = _look(name, crew)
        at_it = [worker for worker, job in jobs.items() if job.state != "ended"]
        if not at_it:
            return jobs
        _must(time.monotonic() < deadline, f"{name}: poll() does not say that the jobs of {at_it} have ended.")
        time.sleep(LOOK)


def _samples(folder: Path) -> dict[str, bytes]:
    """file -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "cells").glob("*/*.jsonl")}


def _must(kept: bool, sentence: str) -> None:
    if not kept:
        raise AssertionError(sentence)
