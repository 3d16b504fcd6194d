"""The entries of `metric_list` in a task file of lmms-eval, read without running anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl.errors import ConfigError, did_you_mean
from icl.harness.code_scan import side_effect
from icl.harness.task_file import FUNCTION, FunctionName, TaskFile, find_task_file

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
