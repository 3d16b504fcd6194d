"""A score of a whole run by the aggregation of a task of lmms-eval, such as MME's perception score or POPE's F1.

The task's `process_results` gives a value of each answer, which may be a mapping, and its aggregation maps all values
to one number T. T is computed without each group of samples too (questions about one image), and the numbers of
`jackknife` stand for the samples: their mean is T, and their spread is its standard error.
Intervals, paired tests and baselines then treat it as any other score. Scores are shares elsewhere in the toolkit:
`scale` divides an aggregate that is none.

A run is read with the task's code and data. In a run directory, which may be somebody else's, it runs with `--trust`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from icl import ConfigError, DataError, Example, Generation, Positive, RunStatistic, ScoredSample, component, mean
from icl.harness.loaded_task import LoadedTask, load_task
from icl.metrics import TaskMetric, group_indices

MAX_BLOCKS = 1000
"""The aggregation is called once for each block. With more groups, several groups are one block."""


@component("metric", "lmms_eval_aggregate")
@dataclass(frozen=True, kw_only=True)
class LmmsEvalAggregate(TaskMetric):
    """A score of the run by an aggregation of a task of lmms-eval, with intervals by the jackknife."""

    trust: bool = False  # whether the task's code, which is code of others, may run
    scale: Positive = 1.0  # the aggregate is divided by it, such as by 2000 for MME's perception score
    split: str | None = None  # split of the queries; None: the task's test split, else its validation split
    files: str | None = None  # digest of the task's files; None: that of the files as they are

    def __post_init__(self) -> None:
        file = self._entry.file
        file.check_trust(self.trust)
        if file.keys.get("output_type") == "multiple_choice":
            raise ConfigError(f"{file.title} scores options. Use the metrics lmms_eval and option with such a task.")
        digest = file.digest
        if self.files not in (None, digest):
            raise ConfigError(f"the files of {file.path} were edited: their digest is {digest}, not {self.files}.")
        object.__setattr__(self, "files", digest)

    def score(self, generation: Generation, example: Example) -> float | None:
        """The value of the sample if it is a number in [0, 1], or has such a `score`; 0 for other values."""
        value = self._task_value(generation, example)
        if value is None:
            return None
        number = value.get("score") if isinstance(value, dict) else value
        return float(number) if isinstance(number, int | float) and 0 <= number <= 1 else 0.0

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        """Numbers that average to the aggregate. Groups with a failed sample have no part: MME's needs its pairs."""
        whole_groups = [g for g in group_indices(samples).values() if all(_is_scored(samples[i]) for i in g)]
        places = sorted(i for group in whole_groups for i in group)
        values: list[float | None] = [None] * len(samples)
        own = {i: value for i in places if (value := self._value(samples[i])) is not None}
        if not own:
            return mean(values)
        blocks = _blocks([samples[i] for i in own], list(own))
        whole, left = self._aggregates(own, blocks)
        numbers = jackknife([len(block) for block in blocks], whole, left) if left else [whole]
        for block, number in zip(blocks, numbers, strict=True):
            for i in block:
                values[i] = number
        if all(0 <= aggregate <= 1 for aggregate in (whole, *left)):
            return mean(values)
        return mean(values, min(0.0, *numbers), max(1.0, *numbers))  # a scale of the task's own, such as MME's

    @cached_property
    def _loaded(self) -> LoadedTask:
        return load_task(self._entry.file, "default", self.trust)

    def _value(self, sample: ScoredSample) -> Any:
        document = self._loaded.document(self.split or self._loaded.query_split, int(sample.meta["doc_id"]))
        return document.scores(str(sample.output), {}).get(self.metric)

    def _aggregates(self, own: dict[int, Any], blocks: Sequence[Sequence[int]]) -> tuple[float, list[float]]:
        """The aggregate of all values, and without each block of samples; none of these if there is one block.

        Args:
            own: Place of a sample -> its value.
            blocks: The places of each block.
        """
        gather: Callable[[list[Any]], Any] = self._loaded.task.aggregation()[self.metric]
        left = []
        for block in blocks if len(blocks) > 1 else ():
            outside = set(block)
            left.append(self._aggregate(gather, [value for i, value in own.items() if i not in outside]))
        return self._aggregate(gather, list(own.values())), left

    def _aggregate(self, gather: Callable[[list[Any]], Any], values: list[Any]) -> float:
        try:
            number = float(gather(values)) / self.scale
        except Exception as error:  # code of others may raise anything
            raise DataError(
                f"the aggregation {self._entry.aggregation} of {self._entry.file.title} failed on {len(values)} "
                f"values: {type(error).__name__}: {error}"
            ) from error
        if not np.isfinite(number):
            raise DataError(
                f"the aggregation {self._entry.aggregation} of {self._entry.file.title} gives {number} for "
                f"{len(values)} values."
            )
        return number


def jackknife(sizes: Sequence[int], whole: float, without: Sequence[float]) -> list[float]:
    """Numbers that average to a statistic of any form, by the delete-a-block jackknife.

    With blocks of one sample they are T + (n - 1) (mean of T_-j - T_-i), whose spread is the jackknife's standard error
    (Efron and Tibshirani 1993, ch. 11).

    Args:
        sizes: The number of samples of each block.
        whole: The statistic T of all samples.
        without: The statistic without each block.

    Returns:
        The number of each block, which all its samples have.
    """
    counts, left = np.asarray(sizes, dtype=np.float64), np.asarray(without, dtype=np.float64)
    influence = (counts.sum() - counts) / counts * (whole - left)
    numbers: list[float] = (whole + influence - np.average(influence, weights=counts)).tolist()
    return numbers


def _is_scored(sample: ScoredSample) -> bool:
    return sample.score is not None and sample.output is not None and "doc_id" in sample.meta


def _blocks(samples: Sequence[ScoredSample], places: Sequence[int]) -> list[list[int]]:
    """The groups of samples, as places; neighboring groups together if there are too many."""
    groups = [[places[i] for i in members] for members in group_indices(samples).values()]
    joined = np.array_split(np.arange(len(groups)), min(len(groups), MAX_BLOCKS))
    return [[place for i in indices for place in groups[i]] for indices in joined]
