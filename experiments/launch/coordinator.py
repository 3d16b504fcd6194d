"""The process that runs a grid with several workers: it starts them, follows them and merges their files.

It plans as any run does and loads no model. When the workers have ended, their counters become one session of
run.json, and each cell's files become one file. If this process dies, nothing is lost. The same command follows
workers that live on (jobs of a cluster), and otherwise computes what is missing.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.grid.grid import Grid
from experiments.launch.base import Launch, Launcher, WorkerGroup, WorkerStatus, is_alive, live_workers
from experiments.launch.watch import SampleCounter
from experiments.observers.observation import Observation
from experiments.running.run_session import describe_grid, sum_counters
from experiments.stopping.stopping import open_stopping
from experiments.store import RunState, Store, json_round_trip, load_run_state, now, write_cells
from experiments.terminal.progress import Progress, SilentProgress
from icl import StoreError, build, describe

logger = logging.getLogger(f"icl.{__name__}")

POLL_SECONDS = 0.5
"""Seconds between two reads of the samples."""

CLUSTER_POLL_SECONDS = 5.0
"""Seconds between two queries to a cluster."""

FILE_DELAY_SECONDS = 10.0
"""Seconds after the end of a job until its last state must have arrived over a network disk."""

LOG_LINES = 15
"""Lines of a dead worker's log that are shown."""


def start_workers(store: Store, grid: Grid, work: RunState) -> tuple[Launch, WorkerGroup]:
    """Starts workers for the missing samples.

    Raises:
        PlanError: The launcher cannot start them. No files of the launch are left.
    """
    launcher = grid.launcher
    missing = {(id(cell.model), id(cell.task), query) for cell in grid.cells for query in work.missing[cell.digest]}
    launch = _begin_launch(store, grid, json_round_trip(describe(launcher)), min(launcher.workers, len(missing)))
    try:
        group = launcher.start(launch)
    except BaseException:
        finish_launch(store, grid, launch, "stopped")
        raise
    logger.info("%s: started %d workers of launcher %s", store.folder, len(launch.workers), launch.launcher.get("name"))
    return launch.with_jobs(group.jobs), group


def join_launch(store: Store, grid: Grid, count: int) -> Launch:
    """The launch of `count` shards that are started by hand: the launch of an earlier shard, or a new one.

    Raises:
        StoreError: Workers of another launch are alive.
    """
    launch = Launch.read(store.folder)
    if launch is not None and not launch.launcher and len(launch.workers) == count and _has_same_cells(launch, grid):
        return launch
    find_earlier_launch(store, grid, SilentProgress(), can_follow=False)
    load_run_state(store, grid)  # refuses the folder of another experiment
    open_stopping(store, grid)  # plans the looks before the first sample
    write_cells(store, grid)
    return _begin_launch(store, grid, {}, count)


def _begin_launch(store: Store, grid: Grid, launcher: Mapping[str, Any], count: int) -> Launch:
    """Writes the files of a new launch, and adds a session to run.json, as one call of the runner does."""
    launch = Launch.new(store.folder, launcher, count, [cell.digest for cell in grid.cells], grid.config.document)
    launch.write()
    session = {"start": now(), "state": "running", "launch": launch.id, "launcher": dict(launcher)}
    sessions = [*(store.read_run() or {}).get("sessions", []), session]
    store.write_run({"name": store.folder.name, **describe_grid(store, grid), "sessions": sessions})
    return launch


def find_earlier_launch(
    store: Store, grid: Grid, progress: Progress, can_follow: bool = True
) -> "tuple[Launch, WorkerGroup] | None":
    """The live workers of an earlier launch of the same command. Files of dead workers are merged.

    Raises:
        StoreError: There are live workers, and this command cannot follow them.
    """
    launch = Launch.read(store.folder)
    if launch is None:
        return None
    group = _launcher(launch, grid).reattach(launch) if launch.launcher else None
    jobs = group.poll() if group is not None else {}
    live = [worker for worker, job in jobs.items() if job.state != "ended"] or live_workers(launch)
    if not live:
        _report_dead(launch, jobs, progress)
        finish_launch(store, grid, launch, "finished" if _all_finished(launch) else "stopped")
        return None
    is_same_command = _has_same_cells(launch, grid) and _is_same_launcher(launch, grid)
    if can_follow and group is not None and jobs and is_same_command:
        if grid.launcher.wait:
            progress.note(f"following {len(launch.workers)} workers that were started at {launch.since}.")
        return launch, group
    names = ", ".join(launch.jobs.get(worker, worker) for worker in live)
    cancel = group.cancel_command if group is not None else ""
    remedy = f", or end them first ({cancel})." if cancel else ", or use another name."
    raise StoreError(
        f"{store.folder} is being run by {len(live)} workers of {_name(launch)} since {launch.since} (jobs {names}). "
        f"Wait for them (icl show {store.folder} --follow){remedy}"
    )


def follow(
    started: tuple[Launch, WorkerGroup],
    store: Store,
    grid: Grid,
    work: RunState,
    *,
    progress: Progress,
    observation: Observation,
) -> dict[str, Any]:
    """Follows workers to their end, if the launcher waits.

    Args:
        started: From `start_workers` or `find_earlier_launch`.
        store: The run directory.
        grid: The cells.
        work: The state of the run before the workers started, or now.
        progress: Receives progress, failures and notes.
        observation: Calls the observers.

    Returns:
        Fields of `experiments.running.runner.RunOutcome`.
    """
    launch, group = started
    outcome: dict[str, Any] = {"samples": work.total, "present": work.present, "computed": 0, "failed": 0}
    if not grid.launcher.wait:
        _update_session(store, launch, {"state": "submitted"})
        return outcome | {"jobs": tuple(group.jobs.values())}
    observation.start(store, grid, work.finished_cells)
    try:
        counter = SampleCounter(store, [(digest, None) for digest in launch.cells], launch.workers)
        counter.poll()  # an earlier process may have followed the same workers
        for digest, cell in counter.cells.items():
            cell.of = len(work.missing[digest] | cell.finished)
        done_before = counter.done
        progress.begin(len(launch.cells), work.total, work.cells_done, work.present)
        jobs = _wait_until_ended(counter, launch, group, progress, observation.cell_finished)
    except KeyboardInterrupt:
        progress.end()
        if message := group.detach():
            progress.note(message)
        else:
            finish_launch(store, grid, launch, "interrupted")
        raise
    finally:
        progress.end()
    _report_dead(launch, jobs, progress)
    all_finished = _all_finished(launch)
    finish_launch(store, grid, launch, "finished" if all_finished else "stopped")
    left = load_run_state(store, grid)
    open_stopping(store, grid).restrict(left)
    failed = sum(len(left.failed[digest]) for digest in launch.cells)
    missing = left.left - failed
    if missing and all_finished:
        progress.note(f"all workers finished their shares, and {missing:,} samples are not in {store.folder}.")
    return outcome | {"computed": counter.done - done_before, "failed": failed, "missing": missing}


def _wait_until_ended(
    counter: SampleCounter, launch: Launch, group: WorkerGroup, progress: Progress, on_cell: Callable[[str], None]
) -> Mapping[str, WorkerStatus]:
    """Reports samples as they are written, until no worker is left. Returns how each job ended."""
    is_remote = launch.launcher.get("name") != "local"  # a worker may be on another machine, whose files come late
    poll_every, file_delay = (CLUSTER_POLL_SECONDS, FILE_DELAY_SECONDS) if is_remote else (0.0, 0.0)
    polled = -poll_every
    ended_at: dict[str, float] = {}
    while True:
        states = {worker: launch.state(worker) for worker in launch.workers}
        if time.monotonic() - polled >= poll_every or all(map(_has_ended, states.values())):
            jobs, polled = group.poll(), time.monotonic()
            ended_at = {w: ended_at.get(w, polled) for w, job in jobs.items() if job.state == "ended"}
        counter.report(progress, on_cell)
        progress.suffix = f"{sum(map(is_alive, states.values()))} of {len(launch.workers)} workers"
        deadline = time.monotonic() - file_delay
        if all(
            _is_finished(state) or (w in ended_at and (_has_ended(state) or ended_at[w] <= deadline))
            for w, state in states.items()
        ):
            return jobs
        time.sleep(POLL_SECONDS)


def _has_ended(state: Mapping[str, Any]) -> bool:
    """Whether a worker has written its last state."""
    return _is_finished(state) or state.get("state") in ("stopped", "interrupted")


def _is_finished(state: Mapping[str, Any]) -> bool:
    return state.get("state") == "finished"


def _all_finished(launch: Launch) -> bool:
    return all(_is_finished(launch.state(worker)) for worker in launch.workers)


def _report_dead(launch: Launch, jobs: Mapping[str, WorkerStatus], progress: Progress) -> None:
    for message in dict.fromkeys(death_messages(launch, jobs)) if launch.launcher else ():
        progress.note(message)


def death_messages(launch: Launch, jobs: Mapping[str, WorkerStatus]) -> Iterator[str]:
    """One sentence for all workers that the same error stopped, and one for each that died, with the end of its log."""
    stopped: dict[str, list[str]] = {}
    for worker in launch.workers:
        state, job = launch.state(worker), jobs.get(worker, WorkerStatus("ended"))
        name = f"{worker.rpartition('-')[2]} (job {launch.jobs.get(worker, '?')})"
        if state.get("state") == "stopped" and state.get("sentence"):
            stopped.setdefault(str(state["reason"]), []).append(name)
        elif not _is_finished(state):
            how = f": {job.message}" if job.message else ""
            yield f"worker {name} died{how}. What it finished is kept.{_log_end(job.log)}"
    for reason, names in stopped.items():
        yield f"worker{'s' * (len(names) > 1)} {', '.join(names)} stopped: {reason}"


def _log_end(log: Path | None) -> str:
    if log is None:
        return ""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f" It left no log at {log}. (Does its machine see this folder?)"
    end = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
    return f" The end of {log}:\n{end}" if end else f" Its log is empty: {log}."


def _has_same_cells(launch: Launch, grid: Grid) -> bool:
    return set(launch.cells) == {cell.digest for cell in grid.cells}


def _name(launch: Launch) -> str:
    return f"launcher={launch.launcher.get('name', '?')}" if launch.launcher else f"--shard i/{len(launch.workers)}"


def _is_same_launcher(launch: Launch, grid: Grid) -> bool:
    """Whether the launchers are equal, apart from `wait`."""
    return {**json_round_trip(describe(grid.launcher)), "wait": 0} == {**launch.launcher, "wait": 0}


def _launcher(launch: Launch, grid: Grid) -> Launcher:
    if _is_same_launcher(launch, grid):
        return grid.launcher
    path = launch.folder / "launch" / "launch.json"
    if ":" in str(launch.launcher.get("name")):
        raise StoreError(
            f"{path}: the launcher {launch.launcher['name']} is code of its own, which is not imported from a run "
            "directory. Set it in the config (launcher), or remove the file if none of its jobs is left."
        )
    node = {key: value for key, value in launch.launcher.items() if key != "code"}
    launcher: Launcher = build("launcher", node, str(path))
    return launcher


def _update_session(store: Store, launch: Launch, fields: Mapping[str, Any]) -> None:
    """Sets fields of the launch's session in run.json."""
    run = store.read_run() or {}
    sessions = [{**s, **fields} if s.get("launch") == launch.id else s for s in run.get("sessions", [])]
    store.write_run({**run, "sessions": sessions})


def finish_launch(store: Store, grid: Grid, launch: Launch, state: str) -> None:
    """Merges what the workers wrote: their counters in run.json, each cell's samples in one file."""
    states = [launch.state(worker) for worker in launch.workers]
    order = {cell.digest: {query.id: i for i, query in enumerate(cell.task.queries)} for cell in grid.cells}
    counted = {key: sum_counters([worker.get(key, {}) for worker in states]) for key in ("counters", "arms")}
    keys = ("start", "end", "state", "reason", "machine", "job")
    workers = [{key: worker[key] for key in keys if key in worker} for worker in states]
    ends = [str(worker["end"]) for worker in states if "end" in worker]
    end = max(ends) if state == "finished" and ends else now()
    _update_session(store, launch, {"end": end, "state": state, **counted, "workers": workers})
    for digest in launch.cells:
        if any((store.cell_folder(digest) / f"{worker}.jsonl").exists() for worker in launch.workers):
            places = order.get(digest, {})  # the order in which one process would have written them
            store.replace_samples(digest, sorted(store.samples(digest), key=lambda s: places.get(s["query"], 0)))
    launch.give_up()
