"""The runs of a folder: name, time, arms, samples, the best score and the state of each."""

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.results.loaded_run import load_run
from experiments.results.run_view import RunView
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.stats import describe_arm, format_share, iter_arms, varying_axes
from experiments.stats.bounds import bound_arm, is_wide
from experiments.stats.formatting import format_range
from experiments.stats.settled import settled_mean
from experiments.store import IMPORTED, MERGED, Store, is_locked, last_state
from icl import DataFrame, ICLError, StoreError


@dataclass(frozen=True)
class RunSummary:
    """One run of a folder.

    Attributes:
        path: The run directory.
        time: The end of its last session, or its start; None if it has no session.
        arms: The number of settings, over all seeds.
        done: The number of samples that did not fail.
        planned: The number of samples of its cells.
        score: The best mean of the primary metric, in words; '' without scores.
        state: 'finished', 'running', 'imported', 'merged', 'unreadable', or how it stopped.
        problem: Why it cannot be read, or ''.
    """

    path: Path
    time: datetime | None
    arms: int
    done: int
    planned: int
    score: str
    state: str
    problem: str = ""


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder, or the folder itself if it is one; the latest first.

    Raises:
        StoreError: There is no such folder.
    """
    if (folder / "run.json").is_file():
        return [summarize_run(folder)]
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder. `icl run` writes runs into `runs`, or the folder of --runs.")
    runs = [summarize_run(path.parent) for path in sorted(folder.glob("*/run.json"))]
    return sorted(runs, key=lambda run: run.time.timestamp() if run.time else -math.inf, reverse=True)


def summarize_run(path: Path) -> RunSummary:
    """The summary of a run directory. A damaged one is unreadable, which is not raised."""
    try:
        info = Store(path).read_run() or {}
        planned = sum(info.get("sizes") or ())
        run = load_run(path)
        if not len(run.lazy_samples()):
            return RunSummary(path, _time(info), 0, 0, planned, "", _state(path, info))
        view = view_run(run, to=NO_REFERENCE, by=())
        arms = {tuple(arm.values()) for arm, _ in iter_arms(view.scores, view.axes)}
        done = len(view.scores) - view.failed
        return RunSummary(path, _time(info), len(arms), done, max(planned, done), _best(view), _state(path, info))
    except ICLError as error:
        return RunSummary(path, None, 0, 0, 0, "", "unreadable", str(error))


def _best(view: RunView) -> str:
    """'lenient .871 (knn, 4 shots)': the arm with the best mean; the first one if no direction is good.

    With many unread outputs the mean is a range such as '.285–.855', and its worse end counts.
    """
    names = varying_axes(view.scores, view.axes)
    means = [(*_mean(rows, view), describe_arm(arm, names)) for arm, rows in iter_arms(view.scores, view.axes)]
    scored = [one for one in means if not math.isnan(one[0])]
    if not scored:
        return ""
    extreme = {"higher": max, "lower": min}.get(view.better)
    _, words, name = extreme(scored, key=lambda one: one[0]) if extreme else scored[0]
    return f"{view.metric} {words}{f' ({name})' if name else ''}"


def _mean(rows: DataFrame, view: RunView) -> tuple[float, str]:
    """The mean of an arm by which it is ranked, and in words."""
    bounds = bound_arm(rows, view.metric)
    if bounds and is_wide(bounds.unread):
        return bounds.high if view.better == "lower" else bounds.low, format_range((bounds.low, bounds.high))
    labeled = settled_mean(rows[rows[view.metric].notna()], view.metric)
    mean = labeled.difference if labeled else float(rows[view.metric].mean())
    return mean, format_share(mean)


def _state(path: Path, info: dict[str, Any]) -> str:
    if is_locked(path):
        return "running"
    state = last_state(path, info)
    kind = next((key for key in (MERGED, IMPORTED) if key in info), "")
    return kind if kind and state == "finished" else state


def _time(info: dict[str, Any]) -> datetime | None:
    times = [str(time) for one in info.get("sessions", ()) if (time := one.get("end") or one.get("start"))]
    return max((datetime.fromisoformat(time).astimezone() for time in times), default=None)
