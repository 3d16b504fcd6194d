"""Fit on the queries of a config (`icl fit`): a strategy's parameters, or the vectors of an intervention.

One setting is fitted, over all its seeds together. Each seed has other random demonstrations. The queries are the dev
split: the task's `split` names it. The run that uses the parameters names another split.

Parameters of a strategy come from the option scores of its component strategies. For vectors, the first part of the
queries has the sources, and the rest chooses layers, heads and strengths, each under every seed. No group of queries
and no image of a query is in both parts.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from decoding import DevPrompt, FitsOnPrompts, Fittable, FittedMethod, FittedTensors, Strategy
from decoding.interventions.vector_file import SUFFIX
from experiments.config import AXES, DEMONSTRATION_AXES, NO_INTERVENTION, Config, matches, to_flow_yaml
from experiments.contexts.contexts import PromptItem, Retrieval, build_contexts, prompt_specs, render
from experiments.grid import Cell, check_data, expand, fitting_origin, vector_record
from experiments.running.generation import engine_for
from experiments.stats import join_words
from icl import ConfigError, DataError, Example, PlanError, Prompt, Task, build, entries, resolve, torch
from icl.metrics import is_accepted
from icl.models.hf.model import HF
from icl.tasks import check_no_shared_image

BATCH_QUERIES = 64
"""Queries that are computed together."""


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`.

    Attributes:
        strategy: The strategy with fitted parameters, or tensors with the parameters that they were fitted with.
        name: Of the strategy.
        samples: Number of samples that they were fitted on.
        left_out: Reason -> number of samples that were left out.
        how: The setting, for the file.
    """

    strategy: Strategy | FittedTensors
    name: str
    samples: int
    left_out: dict[str, int]
    how: dict[str, Any]


def fit(config: Config, out: Path | None = None) -> FitResult:
    """Fits the strategy of a config.

    Args:
        config: A config with one strategy that can be fitted, in one setting.
        out: The file that will be written. Its suffix is checked before the model is loaded.

    Raises:
        ConfigError: The config does not name one strategy that can be fitted, in one setting. Or `out` has the suffix
            of another kind of file.
        PlanError: The model cannot score what the strategy is fitted on.
        DataError: No sample can be used.
    """
    from decoding import unsupported_reason

    grid = expand(replace(config, compare=None, controls="none"))
    kinds = Fittable, FitsOnPrompts
    cells = [cell for cell in grid.cells if isinstance(cell.decoding.strategy, kinds) and not cell.control]
    first = _single_setting(config, cells, grid.cells)
    check_data(grid)
    strategy: Any = first.decoding.strategy
    name, has_tensors = str(type(strategy).component[1]), isinstance(strategy, FitsOnPrompts)
    if out is not None and (out.suffix == SUFFIX) != has_tensors:
        content, end = ("tensors", f"end in {SUFFIX}") if has_tensors else ("JSON", f"not end in {SUFFIX}")
        raise ConfigError(f"--out: `icl fit` writes {content} for {name}, so {out} must {end}.")
    calibration_strategies = strategy.calibration_strategies(first.shots)
    for calibration_strategy in calibration_strategies:
        if problem := unsupported_reason(calibration_strategy, first.model.abilities, "options"):
            raise PlanError(f"{config.where('decoding')}: {problem}")
    left_out: Counter[str] = Counter()
    option_scores, gold, prompts = _option_scores(cells, strategy, calibration_strategies, left_out)
    if not option_scores:
        raise DataError(f"{config.where('task')}: nothing to fit on: {next(iter(left_out), 'it has no queries')}")
    how = {axis: first.config[axis] for axis in AXES if axis != "decoding"}
    how |= {"seeds": [cell.seed for cell in cells], "samples": len(option_scores)}
    how |= fitting_origin(first.model.digest, first.config["task"])
    return FitResult(_fit(strategy, option_scores, gold, prompts), name, len(option_scores), dict(left_out), how)


def fit_constant_bias(cell: Cell) -> tuple[float, ...]:
    """Biases of the options, fitted on a cell without demonstrations. Raises DataError if none can be fitted.

    Args:
        cell: The cell of the dev split. Its task, model and composer are used.
    """
    no_demonstrations: dict[str, Any] = dict.fromkeys(DEMONSTRATION_AXES)
    zero_shot = replace(cell, shots=0, intervene=None, **no_demonstrations)
    left_out: Counter[str] = Counter()
    control = build("strategy", "constant_bias")
    scores, gold, prompts = _option_scores([zero_shot], control, (control,), left_out)
    if not scores:
        raise DataError(f"nothing to fit on: {next(iter(left_out), 'the task has no queries')}")
    fitted: Any = _fit(control, scores, gold, prompts)
    return tuple(fitted.biases)


def _single_setting(config: Config, cells: Sequence[Cell], all_cells: Sequence[Cell]) -> Cell:
    """The first of the cells, which must all have the same setting. Raises ConfigError if not, or if there is none.

    Args:
        cells: Cells whose strategy can be fitted.
        all_cells: All cells of the grid.
    """
    if not cells:
        names = [name for name in entries("strategy") if hasattr(resolve("strategy", name), "needs_labels")]
        place = next((f"{key}." for key in ("grid", "zip") if "decoding" in (config.document.data.get(key) or {})), "")
        name = f"{place}decoding={'[moicl]' if place else 'moicl'}"
        problem = (
            f"{config.where('decoding')}: no decoding here has parameters to fit. {join_words(names)} have: name one"
        )
        overrides = single_setting_overrides(config, all_cells)
        others = [override for override in overrides if not override.startswith(f"{place}decoding=")]
        if others:
            raise SeveralSettingsError(f"{problem}, in one setting.", [name, *others])
        raise ConfigError(f"{problem}, {name} on the command line.")
    check_single_setting(config, cells, "parameters")
    return cells[0]


def _option_scores(
    cells: Sequence[Cell],
    strategy: Fittable | FitsOnPrompts,
    calibration_strategies: Sequence[Strategy],
    left_out: Counter[str],
) -> tuple[list[list[list[float]]], list[int], list[Prompt]]:
    """Log-probabilities, the index of each right option if the strategy needs labels, and the prompts.

    Returns:
        Scores of shape [samples][calibration strategies][options], labels of length samples or 0, and the prompts.
    """
    from decoding import Arm, DecodingRequest, Failure

    scores: list[list[list[float]]] = []
    gold: list[int] = []
    prompts: list[Prompt] = []
    model = cells[0].model
    model.load()
    arms = [Arm(each, normalize=cells[0].decoding.normalize) for each in calibration_strategies]
    for batch in _batches(cells):
        usable: list[tuple[Prompt, tuple[str, ...], int]] = []
        for item in batch:
            options, label = item.example.options, _label(item)
            if item.prompt is None:
                left_out[str(item.failure)] += 1
            elif len(options) < 2:
                left_out["a query without options"] += 1
            elif strategy.needs_labels and label is None:
                left_out["a query whose answer is not among its options"] += 1
            else:
                usable.append((item.prompt, options, label or 0))
        requests = [DecodingRequest(prompt, arm, options, "options") for prompt, options, _ in usable for arm in arms]
        results = iter(engine_for(model)(model, requests))
        for prompt, options, label in usable:
            answers = [next(results) for _ in arms]
            failure = next((answer for answer in answers if isinstance(answer, Failure)), None)
            if failure is not None:
                left_out[failure.reason] += 1
                continue
            scores.append([[answer.option_scores[option] for option in options] for answer in answers])
            gold.append(label)
            prompts.append(prompt)
    return scores, gold if strategy.needs_labels else [], prompts


def _fit(
    strategy: Fittable | FitsOnPrompts, option_scores: list[list[list[float]]], gold: list[int], prompts: list[Prompt]
) -> Strategy | FittedTensors:

    counts = {len(scores) for sample in option_scores for scores in sample}
    if len(counts) > 1:
        raise DataError(
            f"queries have {' or '.join(map(str, sorted(counts)))} options, and there is one fitted number "
            "for each option."
        )
    scores = torch.tensor(option_scores)
    return (
        strategy.fit(scores, gold) if isinstance(strategy, Fittable) else strategy.fit_on_prompts(scores, gold, prompts)
    )


def _batches(cells: Sequence[Cell]) -> Iterator[list[PromptItem]]:
    task, specs = cells[0].task, prompt_specs(cells)
    retrieval = Retrieval(task, cells[0].model)
    for start in range(0, len(task.queries), BATCH_QUERIES):
        items_by_query = build_contexts(retrieval, specs, task.queries[start : start + BATCH_QUERIES])
        yield [render(item) for items in items_by_query for item in items]


def _label(item: PromptItem) -> int | None:
    """The index of the right option; None if no option is right."""
    options, answers = item.example.options, item.example.answers
    return next((i for i, option in enumerate(options) if is_accepted(option, answers)), None)


class SeveralSettingsError(ConfigError):
    """The error for a grid with several settings. overrides: command-line arguments that leave one of them."""

    def __init__(self, reason: str, overrides: Sequence[str]) -> None:
        super().__init__(f"{reason} Choose one of each: {shlex.join(overrides)}")
        self.reason, self.overrides = reason, list(overrides)


def check_single_setting(config: Config, cells: Sequence[Cell], what: str) -> None:
    """Raises SeveralSettingsError if the cells differ on an axis. what: what is fitted, such as 'vectors'."""
    if several := list(_differing_axes(cells)):
        raise SeveralSettingsError(
            f"{config.document.name}: {what} are fitted in one setting, and this file has several values of "
            f"{', '.join(several)}.",
            single_setting_overrides(config, cells),
        )


def single_setting_overrides(config: Config, cells: Sequence[Cell]) -> list[str]:
    """Overrides such as `grid.shots=[8]`, one for each axis of the file with several values.

    The chosen setting has the most shots. Of other axes it has the first value in the file.
    """
    chosen = max(cells, key=lambda cell: cell.shots)
    overrides = [
        _override("grid", axis, next((value for value in values if _is(chosen, axis, value)), values[0]))
        for axis, values in config.grid.items()
        if len(values) > 1
    ]
    rows = range(len(next(iter(config.zip.values()), [])))
    row = next((i for i in rows if all(_is(chosen, axis, values[i]) for axis, values in config.zip.items())), 0)
    zipped = config.zip.items() if len(rows) > 1 else ()
    return [*overrides, *(_override("zip", axis, values[row]) for axis, values in zipped)]


def _is(cell: Cell, axis: str, value: Any) -> bool:
    """Whether the cell has this value on an axis, which may be a parameter: `decoding.alpha`."""
    head, *path = axis.split(".")
    for key in reversed(path):
        value = {key: value}
    cannot_matter = cell.config.get(head) is None  # such as the retriever at 0 shots
    return cannot_matter or matches(cell.axis_value(head), head, value)


def _override(key: str, axis: str, value: Any) -> str:
    return f"{key}.{axis}={to_flow_yaml([value])}"


def _differing_axes(cells: Sequence[Cell]) -> Iterator[str]:
    """'shots (0, 4)' for each axis on which the cells differ.

    An axis that cannot matter to a cell, such as the retriever at 0 shots, does not count as a difference.
    """
    for axis in AXES:
        labels = {repr(cell.config[axis]): str(cell.labels[axis]) for cell in cells if cell.config[axis] is not None}
        if len(labels) > 1:
            yield f"{axis} ({', '.join(labels.values())})"


ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VectorFit:
    """The result of `fit_vectors`.

    Attributes:
        method: The method that was fitted.
        fitted: Its tensors, chosen parameters and numbers.
        record: Where they were fitted, for the file.
        warnings: What makes the vectors doubtful.
        left_out: Number of samples without a prompt.
    """

    method: FittedMethod
    fitted: FittedTensors
    record: dict[str, Any]
    warnings: tuple[str, ...]
    left_out: int


def names_intervention(config: Config) -> bool:
    """Whether a config has an intervention, which `icl fit` then fits."""
    nodes = [config.intervene, *config.grid.get("intervene", ()), *config.zip.get("intervene", ())]
    return any(node not in (NO_INTERVENTION, {"name": NO_INTERVENTION}) for node in nodes)


def fit_vectors(
    config: Config, sources: int | None = None, report_progress: ReportProgress = lambda what, done, of: None
) -> VectorFit:
    """Fits the intervention of a config.

    Args:
        config: A config with one setting and an intervention that has no file yet.
        sources: Number of queries whose prompts are sources, moved to the nearest border of groups. By default half of
            the queries.
        report_progress: Called with a text and the number of steps done and planned.

    Raises:
        ConfigError: The config has several settings, or its intervention is not fitted.
        PlanError: The model has no hidden states to edit.
        DataError: There are too few queries, no border between groups, or an image in both parts.
    """
    from decoding import FitData, FittedMethod

    grid = expand(replace(config, compare=None, controls="none"))
    cells = [cell for cell in grid.cells if isinstance(cell.intervene, FittedMethod)]
    if not cells:
        raise ConfigError(f"{config.where('intervene')}: no intervention here is fitted on data.")
    check_single_setting(config, cells, "vectors")
    first = cells[0]
    method = cast("FittedMethod", first.intervene)
    if method.acts_in != "both":
        raise ConfigError(
            f"{config.where('intervene')}: vectors are fitted without reasoning, where acts_in: {method.acts_in} means "
            "nothing. Remove it here, and set it where the vectors are used."
        )
    if not method.needs <= first.model.abilities:
        raise PlanError(f"{config.where('model')}: '{first.labels['model']}' has no hidden states that can be edited.")
    if first.shots < method.min_fit_shots:
        raise ConfigError(f"{config.where('shots')}: vectors are made of prompts with demonstrations, and shots is 0.")
    check_data(grid)
    queries = first.task.queries
    count = len(queries) // 2 if sources is None else sources
    if not method.min_sources <= count < len(queries):
        raise DataError(
            f"{config.where('task')}: {count} of {len(queries)} queries as sources leave too few. At least "
            f"{method.min_sources} are sources, and at least 1 chooses parameters."
        )
    count = group_border(queries, count, config.where("task"), method.min_sources)
    names = "queries that choose parameters", "the sources"
    advice = "Give the queries of one image one `group`, or leave one of them out."
    check_no_shared_image(queries[:count], queries[count:], config.where("task"), names, advice)
    first.model.load()
    parts, left_out = _parts(cells, count)
    model = cast("HF", first.model)
    data = FitData(model, *parts, first.seed, first.max_new_tokens, report_progress)
    fitted = method.fit(data)
    biases, bias_problem = _option_biases(first)
    record = {
        **fitting_origin(first.model.digest, first.config["task"]),
        **vector_record(first, first.model),
        "width": model.sites.width,
        "seeds": [cell.seed for cell in cells],
        "sources": [one.id for one in data.sources],
        "choice": [one.id for one in data.choice],
        **({"option_biases": list(biases)} if biases else {}),
    }
    return VectorFit(method, fitted, record, (*_warnings(first.task, fitted), *bias_problem), left_out)


def _option_biases(cell: Cell) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The constant bias on the same queries, for option scoring, and why there is none."""
    if cell.answer_mode != "options":
        return (), ()
    try:
        return fit_constant_bias(cell), ()
    except DataError as error:
        return (), (f"there will be no control `constant_bias`: {error}",)


def group_border(queries: Sequence[Example], count: int, where: str, least: int = 2) -> int:
    """The number of first queries nearest to `count` that divides no group. At least `least`, and less than all.

    Raises:
        DataError: Every number divides a group.
    """
    last = {query.group or query.id: number for number, query in enumerate(queries)}
    ends = accumulate((last[query.group or query.id] for query in queries), max)
    borders = [number + 1 for number, end in enumerate(ends) if end == number and least <= number + 1 < len(queries)]
    if not borders:
        raise DataError(
            f"{where}: the queries cannot be divided into sources and others, because every number of first queries "
            "divides a group. Sort the queries by group, or use more groups."
        )
    return min(borders, key=lambda border: (abs(border - count), -border))


def _parts(cells: Sequence[Cell], count: int) -> tuple[tuple[tuple[DevPrompt, ...], tuple[DevPrompt, ...]], int]:
    """Sources and choice: prompts of the first `count` queries and of the others; and samples without a prompt."""
    from decoding.interventions.fit_data import DevPrompt

    task, specs = cells[0].task, prompt_specs(cells)
    parts: tuple[list[DevPrompt], list[DevPrompt]] = ([], [])
    left_out = 0
    for number, items in enumerate(build_contexts(Retrieval(task, cells[0].model), specs, task.queries)):
        for item in map(render, items):
            if item.prompt is None:
                left_out += 1
            else:
                parts[number >= count].append(DevPrompt(item.example.id, item.prompt, item.example.answers))
    return (tuple(parts[0]), tuple(parts[1])), left_out


def _warnings(task: Task, fitted: FittedTensors) -> list[str]:
    """What makes vectors worth nothing: sources of several mappings, demonstrations without a gain."""
    warnings = []
    if mixed := mixed_mappings(task):
        key, values = mixed
        warnings.append(
            f"the sources mix {len(values)} mappings ({key}: {', '.join(values[:4])}): the demonstrations of each "
            "query have one of them. A vector pooled over several mappings is worth nothing. Fit one for each."
        )
    before, after = fitted.report.get("zero_shot"), fitted.report.get("few_shot")
    if isinstance(before, float) and isinstance(after, float) and after <= before:
        warnings.append(
            f"demonstrations do not help on the choice part ({before:.2f} without, {after:.2f} with them), so there is "
            "nothing to recover."
        )
    return [*warnings, *fitted.warnings]


def mixed_mappings(task: Task, queries: int = 12) -> tuple[str, list[str]] | None:
    """A fact that all demonstrations of a query share with it, but not all queries, and its values. None if none.

    Args:
        task: A task. Facts are read from `secret` of its examples, which data sets do not have.
        queries: Number of queries whose pools are read.
    """
    values: dict[str, dict[str, None]] = {}
    is_shared: dict[str, bool] = {}
    for query in task.queries[:queries]:
        pool = task.pool(query.id).examples[:8]
        for key, value in query.secret.items():
            is_shared[key] = is_shared.get(key, True) and all(demo.secret.get(key) == value for demo in pool)
            values.setdefault(key, {})[str(value)] = None
    mixed = [key for key, shared in is_shared.items() if shared and len(values[key]) > 1]
    return (mixed[0], list(values[mixed[0]])) if mixed else None
