"""Experiments: config, grid, plan, run, store, statistics and report.

The names below are the public interface.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from experiments.api import answer as answer
    from experiments.api import compose as compose
    from experiments.api import load_model as load_model
    from experiments.api import load_run as load_run
    from experiments.api import load_task as load_task
    from experiments.api import retrieve as retrieve
    from experiments.api import run as run
    from experiments.launch.base import Launcher as Launcher
    from experiments.launch.base import WorkerStatus as WorkerStatus
    from experiments.launch.local import ProcessGroup as ProcessGroup
    from experiments.observers.base import Observer as Observer
    from experiments.results.loaded_run import Run as Run
    from experiments.stats.findings import Finding as Finding
    from experiments.stats.findings import findings as findings
    from experiments.stats.summary import summarize_arms as summarize_arms

__all__ = [
    "Finding",
    "Launcher",
    "Observer",
    "ProcessGroup",
    "Run",
    "WorkerStatus",
    "answer",
    "compose",
    "findings",
    "load_model",
    "load_run",
    "load_task",
    "retrieve",
    "run",
    "summarize_arms",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "experiments.api": ("answer", "compose", "load_model", "load_run", "load_task", "retrieve", "run"),
    "experiments.launch.base": ("Launcher", "WorkerStatus"),
    "experiments.launch.local": ("ProcessGroup",),
    "experiments.observers.base": ("Observer",),
    "experiments.results.loaded_run": ("Run",),
    "experiments.stats.findings": ("Finding", "findings"),
    "experiments.stats.summary": ("summarize_arms",),
}

__getattr__, __dir__ = lazy_exports("experiments", _MODULES)
