"""Parameters of a strategy fitted on the queries of a config: option scores of what it is made of, and its own rule.

One setting is fitted, over all its seeds together (each has other random demonstrations). The queries are the dev
split: the task's `split` names it, and the run that uses the parameters names another.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.config.config import Config
from experiments.config.keys import AXES
from experiments.contexts.contexts import RenderedSample, Retrieval, build_contexts, prompt_specs, render
from experiments.grid.feasibility import check_data
from experiments.grid.fitted_parameters import fitting_origin
from experiments.grid.grid import Cell, expand
from experiments.grid.single_setting import SeveralSettingsError, differing_axes, single_setting_overrides
from experiments.running.generation import engine_for
from experiments.stats.formatting import join_words
from icl.errors import ConfigError, DataError, PlanError
from icl.metrics.normalize import normalize_text
from icl.registry import entries, resolve

if TYPE_CHECKING:
    from decoding.arms.fitting import Fittable
    from decoding.base import Strategy

BLOCK = 64
"""Queries that are asked together."""


@dataclass(frozen=True)
class FitResult:
    """strategy: with its parameters found. samples: that they were found on. left_out: reason -> samples without.

    how: the setting, for the file.
    """

    strategy: "Strategy"
    samples: int
    left_out: dict[str, int]
    how: dict[str, Any]


def fit(config: Config) -> FitResult:
    """Raises ConfigError where the config does not name one strategy that can be fitted, in one setting; DataError."""
    from decoding.arms.fitting import Fittable
    from decoding.arms.requirements import unsupported_reason

    grid = expand(replace(config, compare=None, controls="none"))
    cells = [cell for cell in grid.cells if isinstance(cell.decoding.strategy, Fittable) and not cell.control]
    first = _one(config, cells, grid.cells)
    check_data(grid)
    strategy: Any = first.decoding.strategy
    calibration_strategies = strategy.calibration_strategies(first.shots)
    for measure in calibration_strategies:
        if problem := unsupported_reason(measure, first.model.abilities, "options"):
            raise PlanError(f"{config.where('decoding')}: {problem}")
    left_out: Counter[str] = Counter()
    told, gold = _scores(cells, strategy, calibration_strategies, left_out)
    if not told:
        reason = next(iter(left_out), "it has no queries")
        raise DataError(f"{config.where('task')}: nothing to fit on: {reason}")
    how = {axis: first.config[axis] for axis in AXES if axis != "decoding"}
    how |= {"seeds": [cell.seed for cell in cells], "samples": len(told)}
    how |= fitting_origin(first.model.digest, first.config["task"])
    return FitResult(_fitted(strategy, told, gold), len(told), dict(left_out), how)


def _one(config: Config, cells: Sequence[Cell], every: Sequence[Cell]) -> Cell:
    """The setting that all cells are of. every: the grid's, whatever their decoding."""
    if not cells:
        known = [name for name in entries("strategy") if hasattr(resolve("strategy", name), "needs_labels")]
        place = next((f"{key}." for key in ("grid", "zip") if "decoding" in (config.document.data.get(key) or {})), "")
        name = f"{place}decoding={'[moicl]' if place else 'moicl'}"
        told = f"{config.where('decoding')}: no decoding here has parameters to fit. {join_words(known)} have: name one"
        others = [one for one in single_setting_overrides(config, every) if not one.startswith(f"{place}decoding=")]
        if others:
            raise SeveralSettingsError(f"{told}, in one setting.", [name, *others])
        raise ConfigError(f"{told}, {name} on the command line.")
    if several := list(differing_axes(cells, AXES)):
        raise SeveralSettingsError(
            f"{config.document.name}: parameters are fitted in one setting, and this file has several values of "
            f"{join_words(several)}.",
            single_setting_overrides(config, cells),
        )
    return cells[0]


def _scores(
    cells: Sequence[Cell], strategy: "Fittable", calibration_strategies: "Sequence[Strategy]", left_out: Counter[str]
) -> tuple[list[list[list[float]]], list[int]]:
    """[samples][measures][options] log-probabilities, and the place of each right option where that is read."""
    from decoding.arms.arm import Arm
    from decoding.engine.requests import DecodingRequest, Failure

    told: list[list[list[float]]] = []
    gold: list[int] = []
    model = cells[0].model
    model.load()
    arms = [Arm(measure, normalize=cells[0].decoding.normalize) for measure in calibration_strategies]
    for block in _blocks(cells):
        kept: list[tuple[Any, tuple[str, ...], int]] = []
        for item in block:
            options, place = item.example.options, _place(item)
            if item.prompt is None:
                left_out[item.failure or "no prompt"] += 1
            elif len(options) < 2:
                left_out["a query without options"] += 1
            elif strategy.needs_labels and place is None:
                left_out["a query whose answer is not among its options"] += 1
            else:
                kept.append((item.prompt, options, place or 0))
        jobs = [DecodingRequest(prompt, arm, options, "options") for prompt, options, _ in kept for arm in arms]
        answers = iter(engine_for(model)(model, jobs))
        for _, options, place in kept:
            said = [next(answers) for _ in arms]
            failed = next((one for one in said if isinstance(one, Failure)), None)
            if failed is not None:
                left_out[failed.reason] += 1
                continue
            told.append([[one.option_scores[option] for option in options] for one in said])
            gold.append(place)
    return told, gold if strategy.needs_labels else []


def _fitted(strategy: "Fittable", told: list[list[list[float]]], gold: list[int]) -> "Strategy":
    import torch

    counts = {len(measure) for sample in told for measure in sample}
    if len(counts) > 1:
        raise DataError(
            f"queries have {' or '.join(map(str, sorted(counts)))} options, and what is fitted is one number an option."
        )
    return strategy.fit(torch.tensor(told), gold)


def _blocks(cells: Sequence[Cell]) -> Iterator[list[RenderedSample]]:
    task, recipes = cells[0].task, prompt_specs(cells)
    retrieval = Retrieval(task, cells[0].model)
    for start in range(0, len(task.queries), BLOCK):
        rows = build_contexts(retrieval, recipes, task.queries[start : start + BLOCK])
        yield [render(item) for row in rows for item in row]


def _place(item: RenderedSample) -> int | None:
    """Of the right option."""
    accepted = {normalize_text(answer) for answer in item.example.answers}
    return next((i for i, option in enumerate(item.example.options) if normalize_text(option) in accepted), None)
