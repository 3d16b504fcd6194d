"""A score of a task of lmms-eval as its own code computes it, for metrics whose aggregation is the mean.

The value is that of the task's `process_results`. `lmms_eval_aggregate` has the metrics with other aggregations. The
code of the task runs because the task of the run is trusted; this metric reads the task's file alone.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from icl.errors import ConfigError, DataError
from icl.harness.metric_entry import MetricEntry, find_metric
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
    def _entry(self) -> MetricEntry:
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
