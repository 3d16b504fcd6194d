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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl import DataError, canonical_digest, parse_json_object


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
