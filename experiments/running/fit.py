"""Fit a strategy's parameters on the queries of a config, from the option scores of its component strategies.

One setting is fitted, over all its seeds together. Each seed has other random demonstrations. The queries are the dev
split: the task's `split` names it. The run that uses the parameters names another split.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.config.config import Config
from experiments.config.keys import AXES, DEMONSTRATION_AXES
from experiments.contexts.contexts import PromptItem, Retrieval, build_contexts, prompt_specs, render
from experiments.grid.feasibility import check_data
from experiments.grid.fitted_parameters import fitting_origin
from experiments.grid.grid import Cell, expand
from experiments.grid.single_setting import SeveralSettingsError, check_single_setting, single_setting_overrides
from experiments.running.generation import engine_for
from experiments.stats.formatting import join_words
from icl.errors import ConfigError, DataError, PlanError
from icl.metrics.normalize import normalize_text
from icl.registry import build, entries, resolve

if TYPE_CHECKING:
    from decoding.arms.fitting import Fittable
    from decoding.base import Strategy

BATCH_QUERIES = 64
"""Queries that are computed together."""


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`.

    Attributes:
        strategy: The strategy with fitted parameters.
        samples: Number of samples that they were fitted on.
        left_out: Reason -> number of samples that were left out.
        how: The setting, for the file.
    """

    strategy: "Strategy"
    samples: int
    left_out: dict[str, int]
    how: dict[str, Any]


def fit(config: Config) -> FitResult:
    """Fits the strategy of a config.

    Raises:
        ConfigError: The config does not name one strategy that can be fitted, in one setting.
        PlanError: The model cannot score what the strategy is fitted on.
        DataError: No sample can be used.
    """
    from decoding.arms.fitting import Fittable
    from decoding.arms.requirements import unsupported_reason

    grid = expand(replace(config, compare=None, controls="none"))
    cells = [cell for cell in grid.cells if isinstance(cell.decoding.strategy, Fittable) and not cell.control]
    first = _single_setting(config, cells, grid.cells)
    check_data(grid)
    strategy: Any = first.decoding.strategy
    calibration_strategies = strategy.calibration_strategies(first.shots)
    for calibration_strategy in calibration_strategies:
        if problem := unsupported_reason(calibration_strategy, first.model.abilities, "options"):
            raise PlanError(f"{config.where('decoding')}: {problem}")
    left_out: Counter[str] = Counter()
    option_scores, gold = _option_scores(cells, strategy, calibration_strategies, left_out)
    if not option_scores:
        raise DataError(f"{config.where('task')}: nothing to fit on: {next(iter(left_out), 'it has no queries')}")
    how = {axis: first.config[axis] for axis in AXES if axis != "decoding"}
    how |= {"seeds": [cell.seed for cell in cells], "samples": len(option_scores)}
    how |= fitting_origin(first.model.digest, first.config["task"])
    return FitResult(_fit(strategy, option_scores, gold), len(option_scores), dict(left_out), how)


def fit_constant_bias(cell: Cell) -> tuple[float, ...]:
    """Biases of the options, fitted on a cell without demonstrations. Raises DataError if none can be fitted.

    Args:
        cell: The cell of the dev split, whose task, model and composer are used.
    """
    no_demonstrations: dict[str, Any] = dict.fromkeys(DEMONSTRATION_AXES)
    zero_shot = replace(cell, shots=0, intervene=None, **no_demonstrations)
    left_out: Counter[str] = Counter()
    control = build("strategy", "constant_bias")
    scores, gold = _option_scores([zero_shot], control, (control,), left_out)
    if not scores:
        raise DataError(f"nothing to fit on: {next(iter(left_out), 'the task has no queries')}")
    fitted: Any = _fit(control, scores, gold)
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
    cells: Sequence[Cell], strategy: "Fittable", calibration_strategies: "Sequence[Strategy]", left_out: Counter[str]
) -> tuple[list[list[list[float]]], list[int]]:
    """Log-probabilities, and the index of each right option if the strategy needs labels.

    Returns:
        Scores of shape [samples][calibration strategies][options], and labels of length samples or 0.
    """
    from decoding.arms.arm import Arm
    from decoding.engine.requests import DecodingRequest, Failure

    scores: list[list[list[float]]] = []
    gold: list[int] = []
    model = cells[0].model
    model.load()
    arms = [Arm(each, normalize=cells[0].decoding.normalize) for each in calibration_strategies]
    for batch in _batches(cells):
        usable: list[tuple[Any, tuple[str, ...], int]] = []
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
        for _, options, label in usable:
            answers = [next(results) for _ in arms]
            failure = next((answer for answer in answers if isinstance(answer, Failure)), None)
            if failure is not None:
                left_out[failure.reason] += 1
                continue
            scores.append([[answer.option_scores[option] for option in options] for answer in answers])
            gold.append(label)
    return scores, gold if strategy.needs_labels else []


def _fit(strategy: "Fittable", option_scores: list[list[list[float]]], gold: list[int]) -> "Strategy":
    import torch

    counts = {len(scores) for sample in option_scores for scores in sample}
    if len(counts) > 1:
        raise DataError(
            f"queries have {' or '.join(map(str, sorted(counts)))} options, and there is one fitted number "
            "for each option."
        )
    return strategy.fit(torch.tensor(option_scores), gold)


def _batches(cells: Sequence[Cell]) -> Iterator[list[PromptItem]]:
    task, specs = cells[0].task, prompt_specs(cells)
    retrieval = Retrieval(task, cells[0].model)
    for start in range(0, len(task.queries), BATCH_QUERIES):
        items_by_query = build_contexts(retrieval, specs, task.queries[start : start + BATCH_QUERIES])
        yield [render(item) for items in items_by_query for item in items]


def _label(item: PromptItem) -> int | None:
    """The index of the right option; None if no option is right."""
    accepted = {normalize_text(answer) for answer in item.example.answers}
    return next((i for i, option in enumerate(item.example.options) if normalize_text(option) in accepted), None)
