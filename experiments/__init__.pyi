from experiments.analyses.shared import add_cell_column as add_cell_column
from experiments.analyses.shared import answered_samples as answered_samples
from experiments.analyses.shared import as_deterioration as as_deterioration
from experiments.analyses.shared import build_retriever as build_retriever
from experiments.analyses.shared import interval_columns as interval_columns
from experiments.analyses.shared import iter_settings as iter_settings
from experiments.analyses.shared import make_table as make_table
from experiments.analyses.shared import mean_of_defined as mean_of_defined
from experiments.analyses.shared import paired_columns as paired_columns
from experiments.analyses.shared import prefixed_interval as prefixed_interval
from experiments.analyses.shared import read_cells as read_cells
from experiments.analyses.shared import require_sample_metric as require_sample_metric
from experiments.analyses.shared import run_tasks as run_tasks
from experiments.api import answer, compose, load_model, load_run, load_task, retrieve, run
from experiments.launch.base import Launcher, WorkerStatus
from experiments.launch.machines import ProcessGroup
from experiments.observers.base import Observer
from experiments.results.loaded_run import Run
from experiments.results.run_view import RunView as RunView
from experiments.stats.findings import Finding, findings
from experiments.stats.summary import summarize_arms
from experiments.store.store import Store as Store

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
