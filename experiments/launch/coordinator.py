"""The process that was asked for a run with several workers: it shares the work out, follows it and puts it together.

It plans as any run does and loads no model. When the workers have ended, their counters become one session of
run.json and each cell's files one file. A process that dies here loses nothing: where workers live on without it (jobs
of a cluster), the same command follows them again, and where they do not, it does what is missing.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.grid.grid import Grid
from experiments.launch.base import Launcher, WorkerGroup, WorkerStatus
from experiments.launch.launch_files import Launch, is_alive, live_workers
from experiments.launch.sample_counter import SampleCounter
from experiments.launch.shares import shares
from experiments.launch.worker import sum_counters
from experiments.running.run_session import describe_grid
from experiments.store.environment import collect_environment, now
from experiments.store.run_state import RunState, json_round_trip, load_run_state
from experiments.store.store import Store
from experiments.terminal.progress import Progress
from icl.errors import StoreError
from icl.registry import build, describe

POLL = 0.5
"""Seconds between two looks at the samples."""

ASK = 5.0
"""Seconds between two questions to whoever carries the workers: a cluster is asked gently."""

LATE = 10.0
"""Seconds after the end of a job in which its last words may still arrive, on a disk that is far away."""

TAIL = 15
"""Lines of a dead worker's log that are shown."""


def launch(store: Store, grid: Grid, work: RunState, progress: Progress) -> dict[str, Any]:
    """Shares out what is missing and starts the workers; follows them to their end, if the launcher waits.

    What an `Outcome` says. Raises PlanError where the launcher cannot start them; nothing is left behind then.
    """
    one, crew = start_workers(store, grid, work)
    if not grid.launcher.wait:
        _session(store, one, {"state": "submitted"})
        return _outcome(work, jobs=tuple(crew.jobs.values()))
    return _followed(store, grid, work, one, crew, progress=progress)


def start_workers(store: Store, grid: Grid, work: RunState) -> tuple[Launch, WorkerGroup]:
    """What is missing in shares, and its workers started. Raises PlanError where they cannot be."""
    launcher = grid.launcher
    parts = shares(grid, work.missing, launcher.workers)
    cells = [cell.digest for cell in grid.cells]
    one = Launch.new(store.folder, json_round_trip(describe(launcher)), len(parts), cells)
    for worker, blocks in zip(one.workers, parts, strict=True):
        one.write_share(worker, [block.told() for block in blocks], grid.config.document)
    one.write()
    _begin(store, grid, one)
    try:
        crew = launcher.start(one)
    except BaseException:
        finish_launch(store, grid, one, "stopped")
        raise
    return one.with_jobs(crew.jobs), crew


def find_earlier_launch(store: Store, grid: Grid, progress: Progress) -> "tuple[Launch, WorkerGroup] | None":
    """The workers of an earlier launch, if they live and this command is theirs; what dead ones left is put together.

    Raises StoreError where they live and this command is another one.
    """
    one = Launch.read(store.folder)
    if one is None:
        return None
    crew = _launcher(one, grid).reattach(one)
    jobs = crew.poll() if crew is not None else {}
    live = [worker for worker, job in jobs.items() if job.state != "ended"] or live_workers(one)
    if not live:
        _told_dead(one, jobs, progress)
        finish_launch(store, grid, one, "finished" if _all_finished(one) else "stopped")
        return None
    if crew is not None and jobs and _same(one, grid):
        return one, crew
    who = ", ".join(one.jobs.get(worker, worker) for worker in live)
    raise StoreError(
        f"{store.folder} is being run by {len(live)} workers of launcher={one.launcher.get('name', '?')} since "
        f"{one.since} (jobs {who}). Wait for them (icl watch {store.folder})"
        + (
            f", or end them first ({crew.cancel_command})."
            if crew is not None and crew.cancel_command
            else ", or use another name."
        )
    )


def follow(there: "tuple[Launch, WorkerGroup]", store: Store, grid: Grid, progress: Progress) -> dict[str, Any]:
    """Follows workers that an earlier command has started. What an `Outcome` says."""
    one, crew = there
    work = load_run_state(store, grid)
    if not grid.launcher.wait:
        return _outcome(work, jobs=tuple(crew.jobs.values()))
    progress.note(f"{len(one.workers)} workers were started {one.since}; they are followed from here.")
    return _followed(store, grid, work, one, crew, progress=progress)


def _followed(
    store: Store, grid: Grid, work: RunState, one: Launch, crew: WorkerGroup, *, progress: Progress
) -> dict[str, Any]:
    try:
        tally = SampleCounter(store, [(digest, None) for digest in one.cells], one.workers)
        tally.poll()  # where an earlier process had followed them, there is something already
        for digest, cell in tally.cells.items():
            cell.of = len(work.missing[digest] | cell.finished)
        before = tally.done
        progress.begin(len(one.cells), work.total, work.cells_done, work.present)
        jobs = _until_ended(tally, one, crew, progress)
    except KeyboardInterrupt:
        progress.end()
        if told := crew.detach():
            progress.note(told)
        else:
            finish_launch(store, grid, one, "interrupted")
        raise
    finally:
        progress.end()
    _told_dead(one, jobs, progress)
    finish_launch(store, grid, one, "finished" if _all_finished(one) else "stopped")
    left = load_run_state(store, grid)
    failed = sum(len(left.failed[digest]) for digest in one.cells)
    return _outcome(work) | {"computed": tally.done - before, "failed": failed, "missing": left.left - failed}


def _until_ended(
    tally: SampleCounter, one: Launch, crew: WorkerGroup, progress: Progress
) -> Mapping[str, WorkerStatus]:
    """Tells of samples as they come, until no worker is left. How each job ended."""
    done, cells = tally.done, tally.cells_done
    asked, every, late = -ASK, *((ASK, LATE) if _far(one) else (0.0, 0.0))
    over: dict[str, float] = {}
    while True:
        states = {worker: one.state(worker) for worker in one.workers}
        if time.monotonic() - asked >= every or all(map(_over, states.values())):
            jobs, asked = crew.poll(), time.monotonic()
            over = {w: over.get(w, asked) for w, job in jobs.items() if job.state == "ended"}
        for sample, reason in tally.poll():
            progress.failed(sample, reason)
        at_work = sum(is_alive(state) for state in states.values())
        progress.suffix = f"{at_work} of {len(one.workers)} workers"
        if tally.done > done:
            progress.advance(tally.done - done)
            done = tally.done
        for _ in range(tally.cells_done - cells):
            progress.cell_finished()
        cells = max(cells, tally.cells_done)
        waited = time.monotonic() - late
        if all(_finished(state) or (w in over and (_over(state) or over[w] <= waited)) for w, state in states.items()):
            return jobs
        time.sleep(POLL)


def _over(state: Mapping[str, Any]) -> bool:
    """Whether a worker has said its last words."""
    return _finished(state) or state.get("state") in ("stopped", "interrupted")


def _finished(state: Mapping[str, Any]) -> bool:
    return state.get("state") == "finished"


def _outcome(work: RunState, jobs: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"samples": work.total, "present": work.present, "computed": 0, "failed": 0, "jobs": jobs}


def _told_dead(one: Launch, jobs: Mapping[str, WorkerStatus], progress: Progress) -> None:
    for words in dict.fromkeys(death_messages(one, jobs)):
        progress.note(words)


def death_messages(one: Launch, jobs: Mapping[str, WorkerStatus]) -> Iterator[str]:
    """A sentence for the workers that one error stopped, and for each that died, with the last lines of its log."""
    told: dict[str, list[str]] = {}
    for worker in one.workers:
        state, job = one.state(worker), jobs.get(worker, WorkerStatus("ended"))
        who = f"{worker.rpartition('-')[2]} (job {one.jobs.get(worker, '?')})"
        if state.get("state") == "stopped" and state.get("sentence"):
            told.setdefault(str(state["reason"]), []).append(who)
        elif not _finished(state):
            words = f": {job.words}" if job.words else ""
            yield f"worker {who} died{words}. What it finished is kept.{_tail(job.log)}"
    for reason, who_all in told.items():
        yield f"worker{'s' * (len(who_all) > 1)} {', '.join(who_all)} stopped: {reason}"


def _far(one: Launch) -> bool:
    """Whether a worker may be on another machine, whose files come late."""
    return one.launcher.get("name") != "local"


def _tail(log: Path | None) -> str:
    """The end of a log that a person can act on."""
    if log is None:
        return ""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f" It left no log at {log}. (Does its machine see this folder?)"
    last = "\n".join(f"    {line}" for line in lines[-TAIL:])
    return f" The end of {log}:\n{last}" if last else f" Its log is empty: {log}."


def _same(one: Launch, grid: Grid) -> bool:
    """Whether a grid with its launcher is what was launched."""
    return set(one.cells) == {cell.digest for cell in grid.cells} and _same_launcher(one, grid)


def _same_launcher(one: Launch, grid: Grid) -> bool:
    """To wait for the workers or not is no difference."""
    return {**json_round_trip(describe(grid.launcher)), "wait": 0} == {**one.launcher, "wait": 0}


def _launcher(one: Launch, grid: Grid) -> Launcher:
    if _same_launcher(one, grid):
        return grid.launcher
    told = {key: value for key, value in one.launcher.items() if key != "code"}
    launcher: Launcher = build("launcher", told, f"{one.folder / 'launch' / 'launch.json'}")
    return launcher


def _all_finished(one: Launch) -> bool:
    return all(_finished(one.state(worker)) for worker in one.workers)


def _begin(store: Store, grid: Grid, one: Launch) -> None:
    """A session of run.json, as one call of the runner has."""
    before = store.read_run() or {}
    session = {"start": now(), "state": "running", "launch": one.id, "launcher": dict(one.launcher)}
    sessions = [*before.get("sessions", []), session]
    store.write_run({"name": store.folder.name, **describe_grid(grid), **collect_environment(), "sessions": sessions})


def _session(store: Store, one: Launch, more: Mapping[str, Any]) -> None:
    """Brings the launch's session up to date."""
    told = store.read_run() or {}
    sessions = [{**s, **more} if s.get("launch") == one.id else s for s in told.get("sessions", [])]
    store.write_run({**told, "sessions": sessions})


def finish_launch(store: Store, grid: Grid, one: Launch, state: str) -> None:
    """Puts together what the workers wrote: their counters in run.json, each cell's samples in one file."""
    states = [one.state(worker) for worker in one.workers]
    order = {cell.digest: {query.id: i for i, query in enumerate(cell.task.queries)} for cell in grid.cells}
    counted = {key: sum_counters([told.get(key, {}) for told in states]) for key in ("counters", "arms")}
    keys = ("start", "end", "state", "reason", "machine", "job")
    workers = [{key: told[key] for key in keys if key in told} for told in states]
    ends = [str(told["end"]) for told in states if "end" in told]
    end = max(ends) if state == "finished" and ends else now()
    _session(store, one, {"end": end, "state": state, **counted, "workers": workers})
    for digest in one.cells:
        if any((store.cell_folder(digest) / f"{worker}.jsonl").exists() for worker in one.workers):
            places = order.get(digest, {})  # as one process would have written them
            store.replace_samples(digest, sorted(store.samples(digest), key=lambda s: places.get(s["query"], 0)))
    one.give_up()
