"""A run: its directory brought up to date with its config, here or by workers.

What can be known to fail fails before a model loads. Then the samples that are missing are computed by the runner
(`experiments.running.runner`) in this process, or shared among workers that each have one (`experiments.launch`).
"""

from pathlib import Path

from experiments.config.config import Config
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import Grid, expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.grid.implausible_sizes import check_sizes
from experiments.launch.coordinator import find_earlier_launch, follow, launch
from experiments.running.rescore import rescore
from experiments.running.run_session import RunSession, refresh_run_file
from experiments.running.runner import Runner, RunOutcome
from experiments.store.lock import write_lock
from experiments.store.run_state import RunState, load_run_state, next_free_folder, write_cells
from experiments.store.store import Store
from experiments.terminal.progress import Progress, SilentProgress


def run(config: Config, runs: Path = Path("runs"), progress: Progress | None = None, fork: bool = False) -> RunOutcome:
    """Brings the run directory of a config up to date. Raises ICLError before any model loads where it can be known."""
    grid = expand(config)
    grid.launcher.check()
    check_requirements(grid)
    check_sizes(grid)
    check_data(grid)
    folder = next_free_folder(runs / config.name) if fork else runs / config.name
    with write_lock(folder):
        store = Store(folder)
        if there := find_earlier_launch(store, grid, progress or SilentProgress()):
            return RunOutcome(
                folder, **follow(there, store, grid, progress or SilentProgress()), warnings=grid.warnings
            )
        work = load_run_state(store, grid)
        if rescored := rescore(store, grid):
            (progress or SilentProgress()).note(
                f"{rescored:,} stored answers were scored anew, because the metrics have changed."
            )
        if damaged := _damaged(work):
            (progress or SilentProgress()).note(damaged)
        if untraced := _untraced(store, grid, work):
            (progress or SilentProgress()).note(untraced)
        if not work.left:
            refresh_run_file(store, grid)
            return RunOutcome(folder, work.total, work.present, 0, 0, grid.warnings)
        write_cells(store, grid)
        for warning in grid_warnings(grid):
            (progress or SilentProgress()).note(warning)
        if grid.launcher.workers:
            return RunOutcome(folder, **launch(store, grid, work, progress or SilentProgress()), warnings=grid.warnings)
        with RunSession(store, grid) as session:
            return Runner(grid, store, work, progress or SilentProgress(), session).outcome()


def _damaged(work: RunState) -> str:
    """A sentence where lines of the run were changed by somebody else than a run."""
    if not work.damaged:
        return ""
    more = f", and {len(work.damaged) - 1:,} more," if len(work.damaged) > 1 else ""
    return (
        f"{work.damaged[0]}{more} is no whole sample of its cell and is passed over: edited by hand, or damaged. What "
        "is missing for it is computed anew."
    )


def _untraced(store: Store, grid: Grid, work: RunState) -> str:
    """A sentence where samples that are there were recorded with another `trace` than is asked for now."""
    before = ((store.read_run() or {}).get("config") or {}).get("top_logprobs")
    if not work.present or not grid.config.top_logprobs or before == grid.config.top_logprobs:
        return ""
    return (
        f"{grid.config.where('top_logprobs')}: {work.present:,} samples that are there already keep the steps "
        "that they have. "
        "To record all of them, start a new run with --fork."
    )
