"""What can be known before a model loads: pools large enough, options where they are scored, needs that are met."""

import hashlib
from typing import TYPE_CHECKING, Any

from experiments.grid.grid import Cell, Grid
from icl.errors import ConfigError, DataError, ICLError, PlanError
from icl.models.short_answers import ANSWERING
from retrievers.machinery.preflight import run_preflight

if TYPE_CHECKING:
    from icl.tasks.base import Task

MAX_POOLS_HASHED = 32
"""Pools of single queries that are read to know whether the demonstrations are the same as before."""

READINGS = {"generate": "answers", "text_logprobs": "likelihoods of texts in prompts"}
"""ability that a retriever wants of the model -> what it reads."""


def check_requirements(grid: Grid) -> None:
    """Every strategy on its model, every retriever with what it needs; reads no data.

    Raises PlanError; ConfigError where candidates are asked for and nothing reranks them; ModelError or DataError where
    a retriever's encoder or file is missing.
    """
    _check_candidates_read(grid)
    for cell in grid.cells:
        if problem := unsupported_reason(cell):
            why = cell.model.strategies_hint
            told = f"{problem} {why}" if why else problem
            raise PlanError(f"{locate(grid, 'decoding', cell)}: model '{cell.labels['model']}': {told}")
        if problem := _refused(cell):
            where = locate(grid, "decoding", cell)
            raise PlanError(f"{where}: model '{cell.labels['model']}': decoding '{cell.decoding.label}': {problem}")
        needs: frozenset[str] = getattr(cell.retriever, "needs", frozenset())
        asked = getattr(cell.retriever, "model_ability", "logits")
        able = ANSWERING if asked == "generate" else {asked}
        if "model" in needs and not able & cell.model.abilities:
            name = f"'{cell.labels['retriever']}'{' with its rerankers' if cell.rerankers else ''}"
            where = locate(grid, "rerankers" if cell.rerankers else "retriever", cell)
            raise PlanError(
                f"{where}: retriever {name} reads the model's {READINGS.get(asked, asked)}, and "
                f"'{cell.labels['model']}' gives none."
            )
        if "model" in getattr(cell.order, "needs", ()) and "logits" not in cell.model.abilities:
            raise PlanError(
                f"{locate(grid, 'order', cell)}: orderer '{cell.labels['order']}' reads the model's logits, and "
                f"'{cell.labels['model']}' gives none. Use the model 'hf', or the orderer 'reversed'."
            )
    for cell in {id(cell.retriever): cell for cell in grid.cells}.values():
        try:
            run_preflight(cell.retriever)
        except ICLError as error:
            raise type(error)(f"{locate(grid, 'retriever', cell)}: {error}") from error


def unsupported_reason(cell: Cell) -> str | None:
    """What the model cannot do for this cell, with the nearest alternative; None where it can."""
    from decoding.arms.requirements import unsupported_reason as missing

    traits = cell.decoding.strategy.traits
    whole = traits.combines_options or traits.requires_options  # not what a model scores itself
    scores_itself = cell.answer_mode == "options" and "score" in cell.model.abilities and not whole
    if scores_itself and cell.decoding.normalize != "sum" and not cell.model.abilities & {"logits", "strategies"}:
        return f"it scores options by itself, so normalize: {cell.decoding.normalize} would change nothing. Drop it."
    return missing(cell.decoding, cell.model.abilities, "generate" if scores_itself else cell.answer_mode)


def _refused(cell: Cell) -> str | None:
    """What the model's server says against this cell's strategy."""
    if not cell.model.is_endpoint:
        return None
    from decoding.engine.server_engine import arm_config

    return cell.model.strategy_refusal(arm_config(cell.decoding))


def check_data(grid: Grid) -> None:
    """Raises DataError, ConfigError or PlanError; reads the tasks."""
    for cell in {id(cell.task): cell for cell in grid.cells}.values():
        try:
            queries, _ = len(cell.task.queries), cell.task.pool_size
        except (ConfigError, DataError) as error:
            raise type(error)(f"{locate(grid, 'task', cell)}: {error}") from error
        if not queries:
            raise DataError(f"{locate(grid, 'task', cell)}: task '{cell.task.title}' has no queries.")
    for cell in grid.cells:
        if cell.shots == 0 or cell.shots <= cell.task.pool_size:
            continue
        raise ConfigError(
            f"{locate(grid, 'shots', cell)}: {cell.shots} demonstrations from a pool of {cell.task.pool_size} "
            f"(task '{cell.task.title}'). Ask for fewer shots, or give the task a larger pool."
        )
    for cell in grid.cells:
        _check_candidates(grid, cell)
    for task in {id(cell.task): cell.task for cell in grid.cells if cell.answer_mode == "options"}.values():
        bare = next((query.id for query in task.queries if len(query.options) < 2), None)
        if bare is not None:
            raise PlanError(
                f"{grid.config.where('answer_mode')}: answer_mode: options needs answers to choose among, and "
                f"query '{bare}' of "
                f"task '{task.title}' has none. Use answer_mode: generate, or give the task options."
            )
        if not any(set(query.answers) & set(query.options) for query in task.queries):
            query = task.queries[0]
            options = ", ".join(map(repr, query.options))
            raise PlanError(
                f"{grid.config.where('answer_mode')}: answer_mode: options, and no query of task '{task.title}' "
                "has its answer "
                f"among its options ('{query.id}' has '{query.answer}' and {options}). Write them alike."
            )


def _check_candidates_read(grid: Grid) -> None:
    config = grid.config
    asked = config.base["rerank_candidates"] is not None or "rerank_candidates" in {*config.grid, *config.zip}
    if (
        asked
        and not any(cell.rerankers for cell in grid.cells if cell.shots)
        and any(cell.shots for cell in grid.cells)
    ):
        key = next(
            (key for key in ("grid", "zip") if "rerank_candidates" in (config.document.data.get(key) or {})), None
        )
        where = config.where(key, "rerank_candidates") if key else config.where("rerank_candidates")
        raise ConfigError(
            f"{where}: rerank_candidates is how many of a retriever's best the rerankers get, and the file has "
            "no rerankers. "
            f"Name some (rerankers: [label_balance]), or leave it out."
        )


def _check_candidates(grid: Grid, cell: Cell) -> None:
    """Raises ConfigError where rerankers would get fewer candidates than shots, or more than there are."""
    if cell.rerank_candidates is None:
        return
    where, size = locate(grid, "rerank_candidates", cell), cell.task.pool_size
    if cell.rerank_candidates < cell.shots:
        raise ConfigError(
            f"{where}: rerankers choose {cell.shots} shots among {cell.rerank_candidates} candidates. Ask for at least "
            f"{cell.shots} candidates, or for fewer shots."
        )
    if cell.rerank_candidates > size:
        raise ConfigError(
            f"{where}: {cell.rerank_candidates} candidates from a pool of {size} (task '{cell.task.title}'). "
            "Ask for at most "
            f"{size}, or leave rerank_candidates out: rerankers then get 50, or all that there are."
        )


def data_digests(task: "Task") -> dict[str, str]:
    """What a cell was made with: digests of the queries (with their gold) and of the pools (the first 32 of them)."""
    queries = hashlib.sha256()
    for query in task.queries:
        queries.update(repr((query.id, query.question, query.answers, query.options)).encode())
    pools = {id(pool): pool for pool in (task.pool(query.id) for query in task.queries[:MAX_POOLS_HASHED])}
    told = hashlib.sha256("".join(pool.digest for pool in pools.values()).encode()).hexdigest()
    return {"queries": queries.hexdigest()[:16], "pool": told[:16]}


def locate(grid: Grid, axis: str, cell: Cell) -> str:
    """The place of a cell's value in the file."""
    for key, axes in (("grid", grid.config.grid), ("zip", grid.config.zip)):
        for i, node in enumerate(axes.get(axis, ())):
            if _is(node, axis, cell):
                return grid.config.where(key, axis, i)
        if axis in axes:
            return grid.config.where(key, axis)
    return grid.config.where(axis)


def _is(node: Any, axis: str, cell: Cell) -> bool:
    from experiments.grid.matching import matches

    return matches(cell, axis, node)
