"""A score of a task of lmms-eval as its own code computes it, for metrics whose aggregation is the mean.

The value is that of the task's `process_results`. `lmms_eval_aggregate` has the metrics with other aggregations. The
code of the task runs because the task of the run is trusted; this metric reads the task's file alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icl.errors import ConfigError, DataError, did_you_mean
from icl.harness.code_scan import side_effect
from icl.harness.task_file import FUNCTION, FunctionName, TaskFile, find_task_file
from icl.loading import SEARCH_FOLDERS
from icl.metrics.base import Better
from icl.registry import component, entries
from icl.types import Example, Generation

DOCUMENT, GOLD = "lmms_eval", "gold"
"""Keys of `Example.secret`: the row of lmms-eval's task, and its answers before a renaming."""


@dataclass(frozen=True, kw_only=True)
class TaskMetric:
    """Base class of metrics that a task file of lmms-eval lists."""

    task: str  # name of an installed task, or the path of its YAML file, as in the run's task
    metric: str  # a metric of the task

    @property
    def label(self) -> str:
        """The metric's name in tables. It differs from the names of the toolkit's metrics."""
        return f"{self.metric} of lmms_eval" if self.metric in entries("metric") else self.metric

    @property
    def better(self) -> Better:
        return "higher" if self._entry.higher_is_better else "lower"

    @cached_property
    def _entry(self) -> "MetricEntry":
        return find_metric(self.task, self.metric, SEARCH_FOLDERS.get())

    def _task_value(self, generation: Generation, example: Example) -> Any:
        """What the task's `process_results` gives. None for a sample of another task, or with renamed answers."""
        document, path = example.secret.get(DOCUMENT), self._entry.file.path
        if document is None or document.loaded.file.path != path or example.secret[GOLD] != example.answers:
            return None
        return document.scores(generation.text, generation.option_scores).get(self.metric)


@component("metric", "lmms_eval")
@dataclass(frozen=True, kw_only=True)
class LmmsEval(TaskMetric):
    """A score of a task of lmms-eval that is a mean over samples, such as `exact_match` or `anls`."""

    def __post_init__(self) -> None:
        if not self._entry.is_mean:
            raise ConfigError(
                f"the metric '{self.metric}' of {self._entry.file.title} is {self._entry.aggregation} of the run, and "
                "not the mean of its samples. Use lmms_eval_aggregate."
            )

    def score(self, generation: Generation, example: Example) -> float | None:
        """The task's value; None for a sample of another task, or with renamed answers. Raises DataError."""
        value = self._task_value(generation, example)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise DataError(
                f"the metric '{self.metric}' of {self._entry.file.title} is {str(value)[:60]} for '{example.id}', not "
                "a number in [0, 1]. Use lmms_eval_aggregate."
            )
        return None if value is None else float(value)


MEAN = "mean"
OWN_METRICS = {"generate_until": ("exact_match",), "multiple_choice": ("acc", "acc_norm")}
"""Output type -> the metrics of a task without a list."""


@dataclass(frozen=True)
class MetricEntry:
    """One metric of a task.

    Attributes:
        aggregation: The name of lmms-eval's aggregation ('mean'), or a function as the file names it.
        higher_is_better: Whether the file says so, or says nothing.
    """

    file: TaskFile
    name: str
    aggregation: str
    higher_is_better: bool

    @property
    def is_mean(self) -> bool:
        return self.aggregation == MEAN


def find_metric(task: str, metric: str, folders: Sequence[Path]) -> MetricEntry:
    """The entry of a metric.

    Args:
        task: The name of an installed task, or the path of a YAML file.
        metric: A metric of the task.
        folders: The folders to which the path may be relative.

    Raises:
        ConfigError: There is no such task or metric, or the metric asks a judge, writes files or needs a filter.
    """
    file = find_task_file(task, folders)
    default = OWN_METRICS.get(str(file.keys.get("output_type")), OWN_METRICS["generate_until"])
    listed = file.keys.get("metric_list") or [{"metric": name} for name in default]
    entries = {entry["metric"]: entry for entry in listed if entry}
    if metric not in entries:
        raise ConfigError(
            f"{file.title} has no metric '{metric}'.{did_you_mean(metric, entries)} It has: {', '.join(entries)}."
        )
    if file.keys.get("filter_list"):
        raise ConfigError(
            f"{file.path} has a filter_list, which changes answers before they are scored, in lmms-eval's own runs "
            "only. Use metrics of the toolkit, such as lenient."
        )
    entry = entries[metric]
    aggregation = entry.get("aggregation", MEAN)
    own = (
        [FunctionName(aggregation.removeprefix(FUNCTION), aggregation.folder)]
        if isinstance(aggregation, FunctionName)
        else []
    )
    for function in (*file.functions("process_results"), *own):
        if effect := side_effect(function):
            raise ConfigError(
                f"the metric '{metric}' of {file.title} {effect}, which a run must not do for each of its cells. Use "
                "metrics of the toolkit, such as lenient."
            )
    name = str(own[0] if own else aggregation)
    return MetricEntry(file, metric, name, bool(entry.get("higher_is_better", True)))
