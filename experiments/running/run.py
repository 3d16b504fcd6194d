"""Bring a run directory up to date with its config, in this process or with workers.

Everything that can be checked without a model is checked first. Then the runner (`experiments.running.runner`) computes
the missing samples in this process, or workers share them (`experiments.launch`), each with a runner of its own.
"""

import logging
from pathlib import Path

from experiments.config.config import Config
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import Grid, expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.grid.implausible_sizes import check_sizes
from experiments.launch.coordinator import find_earlier_launch, follow, launch_workers
from experiments.observers.observation import Observation
from experiments.running.judging import check_judges, judge_answers
from experiments.running.rescore import rescore
from experiments.running.run_session import RunSession, refresh_run_file
from experiments.running.runner import Runner, RunOutcome
from experiments.stopping.stopping import open_stopping
from experiments.store.invocations import Invocation
from experiments.store.lock import write_lock
from experiments.store.run_state import RunState, load_run_state, next_free_folder, write_cells
from experiments.store.store import Store, describe_damaged_lines
from experiments.terminal.progress import Progress, SilentProgress

logger = logging.getLogger(f"icl.{__name__}")


def run(
    config: Config,
    runs: Path = Path("runs"),
    progress: Progress | None = None,
    fork: bool = False,
    observation: Observation | None = None,
) -> RunOutcome:
    """Computes the missing samples of a config in the folder `runs` / its name.

    Args:
        config: The config.
        runs: The folder of run directories.
        progress: Receives progress, failures and notes.
        fork: Whether to start a new run directory if there is one.
        observation: Calls the observers of the config. The caller ends it. None: no observer is called.

    Raises:
        ICLError: The run cannot start or go on. Errors that need no model come before a model is loaded.
    """
    progress = progress or SilentProgress()
    observation = observation or Observation(None)
    grid = expand(config)
    grid.check_surroundings()
    check_requirements(grid)
    check_sizes(grid)
    check_data(grid)
    check_judges(grid)
    folder = next_free_folder(runs / config.name) if fork else runs / config.name
    with write_lock(folder):
        store = Store(folder)
        invocation = Invocation(store)
        outcome = _compute_missing(store, grid, invocation, progress, observation)
        if not outcome.jobs:
            judge_answers(store, grid, invocation, progress)
        return outcome


def _compute_missing(
    store: Store, grid: Grid, invocation: Invocation, progress: Progress, observation: Observation
) -> RunOutcome:
    """Computes the missing samples, in this process or with workers."""
    if earlier := find_earlier_launch(store, grid, progress):
        return RunOutcome(store.folder, **follow(earlier, store, grid, progress, observation), warnings=grid.warnings)
    work = load_run_state(store, grid)
    if stopping := open_stopping(store, grid):
        stopping.advance()
        stopping.restrict(work)
    if rescored := rescore(store, grid, invocation):
        progress.note(f"{rescored:,} stored answers were scored again, because the metrics have changed.")
    if damaged := describe_damaged_lines(work.damaged, "Its sample is computed again."):
        progress.note(damaged)
    if without_steps := _without_steps_note(store, grid, work):
        progress.note(without_steps)
    if not work.left:
        refresh_run_file(store, grid, stopping.sizes(grid) if stopping else None)
        observation.start(store, grid, work.finished_cells, all_observers=False)
        return RunOutcome(store.folder, work.total, work.present, 0, 0, grid.warnings)
    write_cells(store, grid)
    for warning in grid_warnings(grid):
        progress.note(warning)
    if grid.launcher.workers:
        logger.info("%s: %d samples are missing; workers share them", store.folder, work.left)
        outcome = RunOutcome(
            store.folder,
            **launch_workers(store, grid, work, progress, stopping=stopping, observation=observation),
            warnings=grid.warnings,
        )
    else:
        observation.start(store, grid, work.finished_cells)
        with RunSession(store, grid, invocation) as session:
            on_cell = observation.cell_finished
            outcome = Runner(grid, store, work, progress, session, stopping=stopping, on_cell=on_cell).run()
    if stopping:
        stopping.advance()
        if sizes := stopping.sizes(grid):
            refresh_run_file(store, grid, sizes)
    return outcome


def _without_steps_note(store: Store, grid: Grid, work: RunState) -> str:
    """A sentence if finished samples were recorded with another `top_logprobs`; '' if not."""
    before = ((store.read_run() or {}).get("config") or {}).get("top_logprobs")
    if not work.present or not grid.config.top_logprobs or before == grid.config.top_logprobs:
        return ""
    return (
        f"{grid.config.where('top_logprobs')}: {work.present:,} finished samples keep their recorded steps. "
        "To record the steps of all samples, start a new run with --fork."
    )
