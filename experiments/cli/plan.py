"""Say what a study costs and which differences it could find; loads no model."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import ConfigFile, Limit, Overrides, RunsFolder
from icl import StoreError

if TYPE_CHECKING:
    from experiments.stopping.plan import Pilot


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    pilot: Annotated[
        Path | None,
        typer.Option(help="with `stop`: an earlier run, for how often arms differ"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="memory of a GPU, such as 24GB: what the models need there, and if they fit; default: the GPU here",
            show_default=False,
        ),
    ] = None,
    *,
    limit: Limit = None,
    time: Annotated[
        bool,
        typer.Option("--time", help="estimate the time of the run from a pilot of at most two minutes on this machine"),
    ] = False,
) -> None:
    """Prints cells, samples, images, tokens, the schedule of each decoding, and the smallest detectable difference.

    With --time, a few queries of each task and number of shots are computed in a temporary folder, and the models are
    loaded. With --device, or on a machine with a GPU, the status is 2 if one request of a model does not fit into its
    memory.
    """
    from experiments.terminal.progress import spinner

    with spinner("starting") as report_progress:  # imports take longer than reading the file
        from experiments.config.config import load_config
        from experiments.grid import check_data, check_requirements, check_sizes, expand, loading_problems
        from experiments.planning.plan import make_plan
        from experiments.planning.plan_text import (
            check_memory,
            device_bytes,
            format_plan,
            hanging_lines,
            local_gpu_bytes,
            memory_lines,
            memory_plans,
        )
        from experiments.running import Preflight, check_limit, time_run
        from experiments.store import Store, load_run_state, next_free_folder, run_day

        grid = expand(load_config(file, overrides or ()))
        available = device_bytes(device) if device is not None else local_gpu_bytes(grid.models)
        check_requirements(grid)
        check_sizes(grid)
        report_progress("reading", 0, 0)
        check_data(grid)
        store = Store(runs / grid.config.name)
        grid.set_day(run_day(store))
        check_limit(grid, limit)
        refused, state = "", None
        try:
            state = load_run_state(store, grid) if os.path.isfile(store.run_file) else None
        except StoreError as error:  # the cost under another name is still of interest
            refused = f"icl run would refuse: {error} The plan is that of a new run."
        report_progress("counting", 0, 0)
        if state and limit is not None:
            state.restrict(grid, limit)
        present = state.present if state else 0
        plan = make_plan(grid, present, report_progress, _pilot(pilot) if pilot else None, limit)
        Preflight(grid.cells if plan.work.failed else ()).check_prompts()  # a run would end if a model can write none
        problems = [f"icl run would stop on this machine: {text}" for text in loading_problems(grid, grid.models)]
        plan = replace(plan, notes=(*filter(None, [refused]), *problems, *plan.notes))
        memory = [] if available is None else list(memory_plans(plan, available))
        run_time = None
        if time:
            state = state or load_run_state(Store(runs / next_free_folder(store.folder).name), grid)
            if limit is not None:
                state.restrict(grid, limit)
            run_time = time_run(grid, state, report_progress)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in format_plan(plan, width):
        print(line)
    for line in memory_lines(memory):
        print(*hanging_lines("memory  ", line, width), sep="\n")
    for line in run_time.lines(grid.launcher.workers) if run_time else ():
        print(*hanging_lines("time    ", line, width), sep="\n")
    check_memory(memory)


def _pilot(path: Path) -> "Pilot":
    """How often arms and references of a run differ, by task."""
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run
    from experiments.stopping import Pilot, discordance_by_task

    view = view_run(load_run(path))
    return Pilot(str(path), discordance_by_task(view.scores, view.to, view.metric, view.axes))
