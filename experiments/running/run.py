"""Bring a run directory up to date with its config, in this process or with workers.

Everything that can be checked without a model is checked first. Then the runner (`experiments.running.runner`) computes
the missing samples in this process, or workers share them (`experiments.launch`), each with a runner of its own.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.config.config import Config
from experiments.grid import Grid, check_data, check_requirements, check_sizes, expand
from experiments.launch.coordinator import find_earlier_launch, follow, start_workers
from experiments.observers.observation import Observation
from experiments.running.judging import check_judges, judge_answers
from experiments.running.recorder import rescore
from experiments.running.run_session import RunOutcome, RunSession, refresh_run_file
from experiments.stopping.stopping import open_stopping
from experiments.store import Invocation, Store, describe_damaged_lines, run_day, write_lock
from experiments.store.run_state import RunState, load_run_state, next_free_folder, write_cells
from experiments.terminal.progress import Progress, SilentProgress
from icl import ConfigError

logger = logging.getLogger(f"icl.{__name__}")


def run(
    config: Config,
    runs: Path = Path("runs"),
    progress: Progress | None = None,
    fork: bool = False,
    observation: Observation | None = None,
    *,
    limit: int | None = None,
) -> RunOutcome:
    """Computes the missing samples of a config in the folder `runs` / its name.

    Args:
        config: The config.
        runs: The folder of run directories.
        progress: Receives progress, failures and notes.
        fork: Whether to start a new run directory if there is one.
        observation: Calls the observers of the config. The caller ends it. None: no observer is called.
        limit: Computes the first `limit` queries of each task, in this process. Their samples equal the samples
            of the whole run, which reuses them.

    Raises:
        ICLError: The run cannot start or go on. Errors that need no model come before a model is loaded.
    """
    progress = progress or SilentProgress()
    observation = observation or Observation(None)
    grid = expand_checked(config)
    check_limit(grid, limit)
    folder = next_free_folder(runs / config.name) if fork else runs / config.name
    with write_lock(folder):
        store = Store(folder)
        invocation = Invocation(store)
        outcome = _compute_missing(store, grid, invocation, progress, observation, limit=limit)
        if not outcome.jobs:
            judge_answers(store, grid, invocation, progress)
        return outcome


def expand_checked(config: Config) -> Grid:
    """The grid of a config, after every check that needs no model. Raises ICLError."""
    grid = expand(config)
    grid.check_surroundings()
    check_requirements(grid)
    check_sizes(grid)
    check_data(grid)
    check_judges(grid)
    return grid


def check_limit(grid: Grid, limit: int | None) -> None:
    """Raises ConfigError for a limit if comparisons end early: each look needs all of its queries."""
    if limit is not None and grid.config.stop is not None:
        raise ConfigError(
            f"{grid.config.where('stop')}: --limit takes the first queries, but comparisons that end early draw theirs "
            "at random. Leave out --limit, or remove stop (stop=null)."
        )


def _compute_missing(
    store: Store,
    grid: Grid,
    invocation: Invocation,
    progress: Progress,
    observation: Observation,
    *,
    limit: int | None,
) -> RunOutcome:
    """Computes the missing samples, in this process or with workers."""
    if earlier := find_earlier_launch(store, grid, progress):
        work = load_run_state(store, grid)
        fields = follow(earlier, store, grid, work, progress=progress, observation=observation)
        return RunOutcome(store.folder, **fields, warnings=grid.warnings)
    grid.set_day(run_day(store))
    images: dict[str, tuple[str, str]] = {}
    work = load_run_state(store, grid, images=images)
    stopping = open_stopping(store, grid)
    stopping.restrict(work)
    left = work.left
    if limit is not None:
        work.restrict(grid, limit)
    is_whole = work.left == left
    if rescored := rescore(store, grid, invocation):
        progress.note(f"{rescored:,} stored answers were scored again, because the metrics have changed.")
    for note in _state_notes(store, grid, work):
        progress.note(note)
    if work.lost:
        write_cells(store, grid)
    if not work.left:
        _mend_images(store, grid, images, progress)
        for note in stopping.notes():
            progress.note(note)
        refresh_run_file(store, grid, stopping.sizes(grid), is_finished=is_whole)
        observation.start(store, grid, work.finished_cells, all_observers=False)
        return RunOutcome(store.folder, work.total, work.present, 0, 0, grid.warnings)
    from experiments.grid.grid_warnings import grid_warnings  # a finished run needs neither this nor the runner

    write_cells(store, grid)
    for warning in grid_warnings(grid):
        progress.note(warning)
    if grid.launcher.workers and limit is None:
        logger.info("%s: %d samples are missing; workers share them", store.folder, work.left)
        started = start_workers(store, grid, work)
        fields = follow(started, store, grid, work, progress=progress, observation=observation)
        outcome = RunOutcome(store.folder, **fields, warnings=grid.warnings)
    else:
        from experiments.running.runner import Runner

        observation.start(store, grid, work.finished_cells)
        with RunSession(store, grid, invocation) as session:
            grid.set_day(run_day(store))  # that of this session, if it is the first
            on_cell = observation.cell_finished
            outcome = Runner(grid, store, work, progress, session, stopping=stopping, on_cell=on_cell).run()
            session.stop_reason = session.stop_reason or ("" if is_whole else f"--limit {limit}")
        _mend_images(store, grid, images, progress)
    stopping.advance()
    if sizes := stopping.sizes(grid):
        refresh_run_file(store, grid, sizes)
    for note in stopping.notes():
        progress.note(note)
    return outcome


def _mend_images(store: Store, grid: Grid, images: Mapping[str, tuple[str, str]], progress: Progress) -> None:
    """Saves images of earlier samples that are missing or damaged. images: see `load_run_state`."""
    if images:
        from experiments.running.windows import mend_images

        if note := mend_images(store, grid, images):
            progress.note(note)


def _state_notes(store: Store, grid: Grid, work: RunState) -> Iterator[str]:
    """Sentences on damaged files, on changed data, and on finished samples recorded with another `top_logprobs`."""
    if work.lost:
        more = f", and {len(work.lost) - 1:,} more," if len(work.lost) > 1 else ""
        yield (
            f"{store.cell_folder(work.lost[0]) / 'cell.json'}{more} was missing or damaged and is written again. "
            "Finished samples are kept."
        )
    for title, had in work.changed.items():
        yield (
            f"finished samples of task '{title}' are of {had}, and its data set has changed since. To keep one version "
            "of it, set the task's `revision` to that commit in a new run (--fork)."
        )
    if work.damaged:
        yield describe_damaged_lines(work.damaged, "Its sample is computed again.")
    before = ((store.read_run() or {}).get("config") or {}).get("top_logprobs")
    if work.present and grid.config.top_logprobs and before != grid.config.top_logprobs:
        yield (
            f"{grid.config.where('top_logprobs')}: {work.present:,} finished samples keep their recorded steps. "
            "To record the steps of all samples, start a new run with --fork."
        )
