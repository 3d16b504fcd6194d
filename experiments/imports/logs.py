"""A log of another harness, and the table of log formats.

A format is one module of `experiments/imports/formats/` with a function marked by `log_format`. The modules are
imported when a log is looked for, so a new format is a new file.
"""

import importlib
import json
import math
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from experiments.config.keys import AXES, DEFAULT_CORRECTION, METRIC_PREFERENCE
from experiments.store import IMPORTED, ROUNDING, Invocation, SampleWriter, Store, write_lock
from icl import ConfigError, DataError, Sample, StoreError, canonical_digest, did_you_mean, parse_json_object


@dataclass(frozen=True)
class LoggedSample:
    """One answered query of a log.

    Attributes:
        key: The query within its task, as the harness numbers it.
        prompt: The text of the prompt.
        target: The gold answers.
        scores: Metric -> value.
        epoch: The repetition of the query; it becomes the seed.
        columns: Other values, such as a category.
        usage: Counts of tokens.
        group: The cluster of the query, such as the question of rotated options.
        failed: Why there is no answer.
    """

    key: str
    prompt: str
    target: tuple[str, ...]
    output: str
    scores: Mapping[str, float]
    epoch: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    failed: str | None = None

    @property
    def pair(self) -> tuple[str, int]:
        """What pairs samples of one task across logs."""
        return self.key, self.epoch

    @property
    def content(self) -> str:
        """The digest of prompt and target. Paired samples have the same."""
        return canonical_digest([self.prompt, self.target])


@dataclass(frozen=True)
class Log:
    """The samples of one task and one model, from one file.

    Attributes:
        reported: Metric -> the value for the whole task in the harness's results file, if there is one.
        better: Metric -> 'higher' or 'lower'. A metric that is missing here is better if higher.
        origin: `from` (the harness), `version`, `model_args` and `date`, as far as the log names them.
    """

    path: Path
    task: str
    samples: tuple[LoggedSample, ...]
    origin: Mapping[str, Any]
    shots: int = 0
    better: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LogFormat:
    """A kind of log file: the harness, the pattern of the file's name, and the function that reads it."""

    harness: str
    pattern: re.Pattern[str]
    read: Callable[[Path], Log]


RESULTS = ("n-shot", "higher_is_better", "results")
"""Keys of a results file of lm-eval or lmms-eval, each with an entry for each task."""

_FORMATS: dict[str, LogFormat] = {}


def log_format(harness: str, pattern: str) -> Callable[[Callable[[Path], Log]], Callable[[Path], Log]]:
    """Marks the function that reads the files of a harness.

    Args:
        harness: The name of the harness.
        pattern: A regular expression that matches the whole name of a file.
    """

    def register(read: Callable[[Path], Log]) -> Callable[[Path], Log]:
        _FORMATS[harness] = LogFormat(harness, re.compile(pattern), read)
        return read

    return register


def log_formats() -> Mapping[str, LogFormat]:
    """The formats by harness, sorted by name."""
    from experiments.imports import formats

    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")
    return dict(sorted(_FORMATS.items()))


def read_logs(path: Path) -> list[Log]:
    """The logs of a file, or of all log files in a folder and its folders, one per task.

    Raises:
        DataError: There is no such path, no log, or two logs of one task.
    """
    if not os.path.exists(path):
        raise DataError(f"{path} does not exist. Give a log file, or a folder of logs.")
    table = log_formats()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    readers = {file: one for file in files for one in table.values() if one.pattern.fullmatch(file.name)}
    if not readers:
        raise DataError(f"{path} is no log of {', '.join(table)}: no name of a file there is one that they write.")
    logs: dict[str, Log] = {}
    for file, one in readers.items():
        try:
            log = one.read(file)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file} is damaged, or has not the shape of a log of {one.harness} ({error!r})."
            ) from error
        if not log.samples:
            raise DataError(f"{file} has no samples.")
        if log.task in logs:
            raise DataError(f"{logs[log.task].path} and {file} are two logs of '{log.task}'. Give one of the files.")
        logs[log.task] = log
    return list(logs.values())


def json_lines(path: Path, required: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines.

    Raises:
        DataError: A line is not a JSON object, or lacks a required key.
    """
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(parse_json_object(line))
            except ValueError as error:
                raise DataError(f"line {number} of {path} is damaged: {error}.") from error
            if missing := [key for key in required if key not in rows[-1]]:
                raise DataError(f"line {number} of {path} has no '{missing[0]}': it is not a sample of this format.")
    return rows


def json_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file, or an empty one if there is no such file. Raises DataError if it is damaged."""
    try:
        return parse_json_object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error


def score_of(value: Any) -> float | None:
    """The number of a score: a number, a truth value, or the entry `score` of an object; None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def text_of(value: Any) -> str:
    """The text of an answer or a prompt. Lists of one item are opened; other values are written as JSON."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def task_log(
    path: Path, task: str, samples: Iterable[LoggedSample], results: Mapping[str, Any], origin: Mapping[str, Any]
) -> Log:
    """A log of lm-eval or lmms-eval. results: the results file, with shots, directions and values of each task."""
    of_task: list[Any] = [(results.get(key) or {}).get(task) or {} for key in RESULTS]
    shots, higher_is_better, values = of_task
    reported: dict[str, float] = {}
    for key, value in values.items():
        metric, _, name = key.partition(",")
        if name and "_stderr" not in metric and (number := score_of(value)) is not None:
            reported |= {key: number, metric: number}
    better = {metric: "lower" if higher is False else "higher" for metric, higher in higher_is_better.items()}
    return Log(path, task, tuple(samples), origin, int(shots or 0), better, reported)


# Writes a run directory from logs: one arm per log, with the samples that all logs have.
#
# Samples of one task are paired by their key and epoch. A sample counts if every log of its task has it, with the same
# prompt and target. The others are left out and counted. A metric is read as the mean of its samples. So a metric that
# reports another number (F1, a sum) is left out unless it is asked for by name.


Axis = Literal["model", "decoding"]
TOLERANCE = 1e-4
"""The difference of a reported value from the mean of its samples that rounding explains."""
_Paired = dict[str, dict[str, tuple[Log, list[LoggedSample]]]]
"""Task -> arm -> the log and its samples that count."""
_RESERVED = frozenset({*AXES, "unit", "decided_by", *(f.name for f in fields(Sample))})


@dataclass(frozen=True)
class ImportedRun:
    """What was written: numbers of cells and samples, metrics, and sentences on what was left out."""

    metrics: tuple[str, ...]
    cells: int
    samples: int
    notes: Sequence[str]


def write_imported_run(
    folder: Path, logs: Mapping[str, Sequence[Log]], axis: Axis = "model", metric: str = "", group: str = ""
) -> ImportedRun:
    """Writes the run directory of logs.

    Args:
        folder: The run directory. It must not exist, or be empty.
        logs: The name of each arm -> its logs, one per task. The first arm is the reference of comparisons.
        axis: The axis that the names are values of.
        metric: The metric of comparisons; by default the first of the logs.
        group: The column that names the cluster of a sample; by default a sample is its own cluster.

    Raises:
        DataError: The logs have no sample in common, or no metric, or not the column.
        ConfigError: The logs have no such metric.
        StoreError: The folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} exists and is not empty. Use another name.")
    notes: list[str] = []
    paired = {task: _paired(task, of_task, notes) for task, of_task in _by_task(logs, notes).items()}
    metrics = _metrics([pair for of_task in paired.values() for pair in of_task.values()], metric, notes)
    chosen = metric or next((m for m in METRIC_PREFERENCE if m in metrics), next(iter(metrics)))
    paired = _with_metric(chosen, paired, notes)
    scored = {name for of_task in paired.values() for _, own in of_task.values() for one in own for name in one.scores}
    metrics = {name: node for name, node in metrics.items() if name in scored}
    if group:
        _check_column(group, paired)
    reference = next(iter(logs))
    with write_lock(folder):
        store, cells = Store(folder), dict[str, int]()
        for of_task in paired.values():
            for name, (log, samples) in of_task.items():
                cells |= _write_log(store, log, samples, metrics, arm=(axis, name), group=group)
        compare = {"to": {axis: reference}, "metric": chosen, "correction": DEFAULT_CORRECTION}
        store.write_run(
            {
                "name": folder.name,
                IMPORTED: sorted({str(log.origin["from"]) for own in logs.values() for log in own}),
                "config": {"compare": compare if len(logs) > 1 else {"metric": chosen}},
                "cells": list(cells),
                "sizes": list(cells.values()),
                "metrics": metrics,
                "sessions": [{"state": "finished"}],
            }
        )
    return ImportedRun(tuple(metrics), len(cells), sum(cells.values()), notes)


def _by_task(logs: Mapping[str, Sequence[Log]], notes: list[str]) -> dict[str, dict[str, Log]]:
    """Task -> arm -> log, for the tasks that all arms have."""
    tasks: dict[str, dict[str, Log]] = {}
    for name, own in logs.items():
        for log in own:
            tasks.setdefault(log.task, {})[name] = log
    if partial := {task: of_task for task, of_task in tasks.items() if len(of_task) < len(logs)}:
        parts = "; ".join(f"{task} (only in {', '.join(of_task)})" for task, of_task in partial.items())
        if len(partial) == len(tasks):
            raise DataError(f"the predictions do not pair: no task is in all logs. They have {parts}.")
        notes.append(f"left out, because not all logs have these tasks: {parts}.")
    return {task: of_task for task, of_task in tasks.items() if task not in partial}


def _paired(task: str, of_task: Mapping[str, Log], notes: list[str]) -> dict[str, tuple[Log, list[LoggedSample]]]:
    """Arm -> the log and its samples that all logs of the task have, with the same prompt and target."""
    by_pair: dict[str, dict[tuple[str, int], LoggedSample]] = {}
    for name, log in of_task.items():
        by_pair[name] = {sample.pair: sample for sample in log.samples}
        if len(by_pair[name]) < len(log.samples):
            key, times = Counter(sample.pair for sample in log.samples).most_common(1)[0]
            raise DataError(
                f"{log.path} has sample {key[0]} of '{task}' {times} times. Give the log of one evaluation."
            )
    every = dict.fromkeys(pair for own in by_pair.values() for pair in own)
    common = [pair for pair in every if all(pair in own for own in by_pair.values())]
    same = [pair for pair in common if len({own[pair].content for own in by_pair.values()}) == 1]
    if not same:
        what = "no sample is in all logs" if not common else "the prompts or targets of all samples differ"
        raise DataError(f"the predictions of '{task}' do not pair: {what} ({', '.join(by_pair)}).")
    if partial := len(every) - len(common):
        notes.append(f"{task}: left out {partial:,} of {len(every):,} samples that not all logs have.")
    if other := len(common) - len(same):
        notes.append(f"{task}: left out {other:,} of {len(every):,} samples whose prompt or target differs.")
    return {name: (log, [by_pair[name][pair] for pair in same]) for name, log in of_task.items()}


def _metrics(
    logs: Sequence[tuple[Log, Sequence[LoggedSample]]], chosen: str, notes: list[str]
) -> dict[str, dict[str, str]]:
    """Metric -> its node in run.json. Keeps metrics that a mean of numbers in [0, 1] can represent."""
    names = dict.fromkeys(name for log, _ in logs for sample in log.samples for name in sample.scores)
    nodes: dict[str, dict[str, str]] = {}
    for name in names:
        if why := _unusable(name, [log for log, _ in logs], name == chosen):
            notes.append(f"left out the metric '{name}': {why}.")
            continue
        lower = any(log.better.get(name) == "lower" for log, _ in logs)
        nodes[name] = {"name": name, "better": "lower" if lower else "higher"}
    if chosen and chosen not in nodes:
        raise ConfigError(
            f"--metric: the logs have no usable score '{chosen}'.{did_you_mean(chosen, nodes)} "
            f"Scores: {', '.join(nodes) or 'none'}. {' '.join(notes)}".rstrip()
        )
    if failed := next((log for log, _ in logs if all(sample.failed for sample in log.samples)), None):
        raise DataError(f"all samples of {failed.path} failed, the first with: {failed.samples[0].failed:.200}")
    if not nodes:
        raise DataError(f"the logs have no score that is a number in [0, 1] per sample. {' '.join(notes)}".rstrip())
    return nodes


def _unusable(name: str, logs: Sequence[Log], is_chosen: bool) -> str:
    """Why a metric cannot be read as the mean of its samples, or ''."""
    if name in _RESERVED:
        return "a column of every run has this name"
    tasks = {log.task for log in logs if any(name in sample.scores for sample in log.samples)}
    for log in logs:
        values = [sample.scores[name] for sample in log.samples if name in sample.scores]
        if not values and log.task in tasks:
            return f"{log.path} has no such score, and other logs of '{log.task}' have it"
        if outside := next((value for value in values if not -ROUNDING <= value <= 1 + ROUNDING), None):
            return f"{log.path.name} has the value {outside:g}, and scores are in [0, 1]"
        if not values or is_chosen or name not in log.reported:
            continue
        mean, reported = sum(values) / len(values), log.reported[name]
        if abs(mean - reported) > TOLERANCE:
            return (
                f"{log.path.name} reports {reported:.4g}, and the mean of its samples is {mean:.4g}. "
                f"`--metric {name}` reads the mean"
            )
    return ""


def _with_metric(metric: str, paired: _Paired, notes: list[str]) -> _Paired:
    """The tasks that have the metric of comparisons: there is no comparison without it."""
    first = {task: next(iter(of_task.values()))[1] for task, of_task in paired.items()}
    without = [task for task, samples in first.items() if not any(metric in sample.scores for sample in samples)]
    if without:
        notes.append(
            f"left out the tasks {', '.join(without)}, which have no score '{metric}'. Import them as "
            "another run, with their own --metric."
        )
    return {task: of_task for task, of_task in paired.items() if task not in without}


def _check_column(group: str, paired: _Paired) -> None:
    for of_task in paired.values():
        for log, samples in of_task.values():
            columns = dict.fromkeys(name for sample in samples for name in sample.columns)
            if missing := [sample.key for sample in samples if group not in sample.columns]:
                raise DataError(
                    f"--group: sample {missing[0]} of {log.path} has no column '{group}'."
                    f"{did_you_mean(group, columns)} Columns: {', '.join(columns) or 'none'}."
                )


def _write_log(
    store: Store,
    log: Log,
    samples: Sequence[LoggedSample],
    metrics: Mapping[str, Any],
    *,
    arm: tuple[Axis, str],
    group: str,
) -> dict[str, int]:
    """Writes the cells of one arm and task, one per epoch. Returns their numbers of samples."""
    axis, name = arm
    labels: dict[str, Any] = {
        **dict.fromkeys(AXES, "none"),
        "composer": IMPORTED,
        "answer_mode": "generate",
        "model": IMPORTED,
    }
    labels |= {"decoding": IMPORTED, "task": log.task, "shots": log.shots, axis: name}
    environment = {"start": None, "versions": {str(log.origin["from"]): str(log.origin.get("version") or "unknown")}}
    invocation = Invocation(store, environment=environment | {IMPORTED: dict(log.origin)}).id
    sizes: dict[str, int] = {}
    with SampleWriter(store, invocation=invocation) as writer:
        for epoch in sorted({sample.epoch for sample in samples}):
            digest = canonical_digest([log.task, axis, name, epoch, log.origin], default=repr)[:16]
            own = [_stored(digest, sample, log, metrics, group) for sample in samples if sample.epoch == epoch]
            description = {"seed": epoch, "labels": {**labels, "seed": epoch}, "shots": log.shots}
            store.write_cell(digest, {**description, "metrics": metrics, IMPORTED: dict(log.origin)})
            writer.append(digest, own)
            sizes[digest] = len(own)
    return sizes


def _stored(digest: str, sample: LoggedSample, log: Log, metrics: Mapping[str, Any], group: str) -> Sample:
    common: dict[str, Any] = {
        "cell": digest,
        "query": f"{log.task}-{sample.key}",
        "seed": sample.epoch,
        "group": str(sample.columns[group]) if group else sample.group,
        "question": sample.prompt,
        "gold": sample.target,
        "meta": {**_plain(sample.columns), "source": str(log.origin["from"])},
    }
    if sample.failed:
        return Sample(**common, failed=sample.failed)
    scores = {name: value for name, value in sample.scores.items() if name in metrics}
    return Sample(
        **common, prompt=sample.prompt, output=sample.output, finish="stop", scores=scores, usage=sample.usage
    )


def _plain(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns whose values are texts, numbers or truth values."""
    return {name: value for name, value in columns.items() if isinstance(value, str | int | float) or value is None}
