"""A score of a task of lmms-eval as its own code computes it, for metrics that are averaged.

The value comes from the task's `process_results`. `lmms_eval_aggregate` has the metrics with other aggregations. The
code of the task runs because the task of the run is trusted; this metric reads the task's file alone.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from icl import SEARCH_FOLDERS, Better, ConfigError, DataError, Example, Generation, component, did_you_mean, entries
from icl.harness.task_file import FUNCTION, FunctionName, TaskFile, find_task_file, function_file, module_file

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


# Whether a function of a task writes files or asks a judge, read from its source. Nothing is imported.
#
# The scan follows the names that a function uses: to other definitions of its file, to values of that file, and
# through imports to files beside it and in lmms-eval's tasks. It sees what the source names, and not what a string or
# an attribute of another object hides. It is a guard against surprises, not against malice: that is what `trust` is
# for.

JUDGES = frozenset(
    (
        *("aiohttp", "anthropic", "dashscope", "google", "httpx", "litellm", "openai", "requests", "urllib"),
        *("lmms_eval.azure_openai_compat", "lmms_eval.llm_judge", "lmms_eval.verifiers"),
    )
)
"""Modules that send requests."""

WRITERS = frozenset(
    ("dump", "generate_submission_file", "makedirs", "savefig", "save", "to_csv", "to_excel", "to_json", "write_text")
)
"""Functions and methods that write files."""


@dataclass(frozen=True)
class _Module:
    """The top-level definitions of a file, and where its imports come from.

    Attributes:
        definitions: Name -> the statements that define it.
        imports: Name -> (module, name in it); the name is '' if the module itself is imported.
    """

    path: Path
    definitions: Mapping[str, list[ast.stmt]] = field(default_factory=dict)
    imports: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def side_effect(function: FunctionName) -> str:
    """What a function does besides computing: 'asks a judge (…)' or 'writes files (…)'. '' for nothing.

    Args:
        function: A function as a task file names it, such as 'utils.process_results'.
    """
    path = function_file(function)
    if path is None:
        return ""
    read_once = lru_cache(maxsize=None)(_module)  # of this scan alone: files may be edited between scans
    visited: set[tuple[Path, str]] = set()
    waiting = [(path, function.rpartition(".")[2])]
    while waiting:
        place = waiting.pop()
        if place in visited:
            continue
        visited.add(place)
        module, name = read_once(place[0]), place[1]
        for statement in module.definitions.get(name, ()):
            if writer := _writer(statement):
                return f"writes files ({place[0].name}: {name} calls {writer})"
            for used in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}:
                source, member = module.imports.get(used, ("", ""))
                if _is_judge(source):
                    return f"asks a judge ({place[0].name}: {name} uses {source})"
                if target := _file_of(source, place[0]):
                    waiting += [(target, member)] if member else _attributes(statement, used, target)
                elif used in module.definitions:
                    waiting.append((place[0], used))
    return ""


def _writer(statement: ast.stmt) -> str:
    """The first call in a statement that writes a file, or a parameter `args`, which has the place to write to."""
    if isinstance(statement, ast.FunctionDef) and any(a.arg == "args" for a in statement.args.args[1:]):
        return "lmms-eval's writer of submissions"
    for node in ast.walk(statement):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "mode")]
        if called in WRITERS or (called == "open" and any(_writes(mode) for mode in modes)):
            return str(called)
    return ""


def _writes(mode: ast.expr) -> bool:
    return isinstance(mode, ast.Constant) and bool(set("wax+") & set(str(mode.value)))


def _is_judge(module: str) -> bool:
    parts = module.split(".")
    return any(".".join(parts[: i + 1]) in JUDGES for i in range(len(parts)))


def _attributes(statement: ast.stmt, module: str, target: Path) -> list[tuple[Path, str]]:
    """The members of an imported module that a statement uses."""
    return [
        (target, node.attr)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    ]


def _file_of(module: str, importer: Path) -> Path | None:
    """The file of a module next to the importer, or in the installed lmms-eval. None for other modules."""
    if not module:
        return None
    return module_file(module, importer.parent.joinpath(*module.lstrip(".").split(".")).with_suffix(".py"))


def _module(path: Path) -> _Module:
    """The definitions of a file; none for a file that Python cannot read, which fails with its own error later."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return _Module(path)
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in _top_level(tree.body):
        for name in _defined(statement):
            definitions.setdefault(name, []).append(statement)
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name.split(".")[0]: (alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return _Module(path, definitions, imports)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those inside `if`, `try` and `with`."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)
        else:
            yield statement


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
