"""Checks before a model is loaded: sizes of pools, options to score, and needs of components."""

import hashlib
import json
from typing import Any

from experiments.config.keys import MAX_COLUMN_VALUES, matches
from experiments.grid.fitted_parameters import retriever_problem, vector_problem
from experiments.grid.grid import Cell, Grid
from icl import ConfigError, DataError, ICLError, PlanError, Task, did_you_mean, letter_problem
from icl.models.answer_likelihood import ANSWERING
from icl.tasks.base import task_parts
from retrievers import declared, run_preflight

MAX_POOLS_HASHED = 32
"""Pools of single queries whose digests identify the demonstrations of a run."""

MIN_CHECKED_TOKENS = 1024
"""Longer answers are compared with the model's context, which needs the model's config."""

ENGINES = {"logits", "strategies"}
"""Abilities of models whose strategies run here or inside vLLM."""

MODEL_OUTPUTS = {"generate": "answers", "text_logprobs": "likelihoods of texts in prompts"}
"""Ability of the model that a retriever needs -> what it reads."""


def check_sizes(grid: Grid) -> None:
    """Raises PlanError if an answer may be longer than the model's context. Reads no weights."""
    for cell in {(id(cell.model), cell.max_output_tokens): cell for cell in grid.cells}.values():
        if cell.max_output_tokens < MIN_CHECKED_TOKENS or (
            cell.answer_mode == "options" and cell.max_thinking_tokens is None
        ):
            continue
        context = cell.model.max_tokens
        if context is not None and cell.max_output_tokens >= context:
            key = "max_new_tokens" if cell.max_new_tokens >= context else "max_thinking_tokens"
            keys = ("grid", key) if key in grid.config.grid else (key,)
            raise PlanError(
                f"{grid.config.where(*keys)}: an answer of {cell.max_output_tokens:,} tokens leaves no space for a "
                "prompt: "
                f"model '{cell.labels['model']}' reads {context:,} tokens, prompt and answer together."
            )


def check_requirements(grid: Grid) -> None:
    """Checks that models and retrievers can do what the cells need. Reads no data.

    Raises:
        PlanError: A model lacks an ability.
        ConfigError: There is a number of candidates and no reranker.
        ModelError, DataError: The encoder or the file of a retriever is missing.
    """
    from decoding.arms.requirements import arm_part_refusal, branch_edit_refusal, thinking_budget_refusal

    _check_candidates_read(grid)
    for cell in grid.cells:
        if problem := unsupported_reason(cell):
            hint = cell.model.strategies_hint
            message = cell.model.not_ready or (f"{problem} {hint}" if hint else problem)
            raise PlanError(f"{locate(grid, 'decoding', cell)}: model '{cell.labels['model']}': {message}")
        problem = arm_part_refusal(cell.decoding, cell.part_budget) or _server_refusal(cell)
        if problem := problem or branch_edit_refusal(cell.decoding, cell.model):
            where = locate(grid, "decoding", cell)
            raise PlanError(f"{where}: model '{cell.labels['model']}': decoding '{cell.decoding.label}': {problem}")
        problem = _reasoned_options_refusal(cell) or thinking_budget_refusal(cell.decoding, cell.model)
        if cell.max_thinking_tokens is not None and problem:
            where, subject = locate(grid, "max_thinking_tokens", cell), f"decoding '{cell.decoding.label}'"
            raise PlanError(f"{where}: model '{cell.labels['model']}', {subject}: {problem}")
        _check_steering(grid, cell)
        needs: frozenset[str] = getattr(cell.retriever, "needs", frozenset())
        ability = declared(cell.retriever, "model_ability")
        sufficient = ANSWERING if ability == "generate" else {ability}
        if "model" in needs and not sufficient & cell.model.abilities:
            name = f"'{cell.labels['retriever']}'{' with its rerankers' if cell.rerankers else ''}"
            where = locate(grid, "rerankers" if cell.rerankers else "retriever", cell)
            raise PlanError(
                f"{where}: retriever {name} needs the model's {MODEL_OUTPUTS.get(ability, ability)}, but "
                f"'{cell.labels['model']}' does not return any."
            )
        if "model" in getattr(cell.order, "needs", ()) and "logits" not in cell.model.abilities:
            raise PlanError(
                f"{locate(grid, 'order', cell)}: orderer '{cell.labels['order']}' needs the model's logits, but "
                f"'{cell.labels['model']}' does not return any. Use the model 'hf', or the orderer 'reversed'."
            )
    _check_files(grid)
    for cell in grid.cells:
        if problem := retriever_problem(cell):
            where = locate(grid, "retriever", cell)
            raise PlanError(f"{where}: model '{cell.labels['model']}', {cell.labels['retriever']}: {problem}")
    for metric in grid.metrics.values():
        try:
            run_preflight(metric)
        except ICLError as error:
            raise type(error)(f"{grid.config.where('metrics')}: {error}") from error


def _check_files(grid: Grid) -> None:
    """Checks the files and embedders of retrievers and strategies. Raises ICLError."""
    parts = {
        id(part): (part, axis, cell)
        for cell in grid.cells
        for axis, part in (("retriever", cell.retriever), ("decoding", cell.decoding.strategy))
    }
    for part, axis, cell in parts.values():
        try:
            run_preflight(part)
        except ICLError as error:
            raise type(error)(f"{locate(grid, axis, cell)}: {error}") from error


def _reasoned_options_refusal(cell: Cell) -> str | None:
    """Why the model cannot reason before options are scored, or None if it can."""
    if cell.answer_mode != "options" or cell.model.abilities & ENGINES:
        return None
    return (
        "answer_mode: options with max_thinking_tokens reasons first and scores the options after it, which needs the "
        "model 'hf' or 'vllm', or a server of `icl serve`. Remove max_thinking_tokens, or use answer_mode: generate."
    )


def _check_steering(grid: Grid, cell: Cell) -> None:
    """Raises PlanError if the intervention of a cell cannot run, or its vectors are of another model or template."""
    from decoding.arms.requirements import steering_refusal

    if cell.steering is None:
        return
    problem = steering_refusal(cell.steering, cell.model.abilities, cell.part_budget) or vector_problem(cell)
    problem = problem or cell.steering.model_problem(cell.model)
    if not problem and cell.steering.reads_demonstrations and cell.shots == 0:
        problem = "it is made of the prompt's demonstrations, and shots is 0. Pair it with shots above 0 (zip)."
    if problem:
        where = locate(grid, "intervene", cell)
        raise PlanError(f"{where}: model '{cell.labels['model']}', intervene '{cell.labels['intervene']}': {problem}")


def unsupported_reason(cell: Cell) -> str | None:
    """Why the model cannot run this cell, with the nearest alternative; None if it can."""
    from decoding.arms.requirements import unsupported_reason as missing

    traits = cell.decoding.strategy.traits
    needs_engine = traits.combines_options or traits.requires_options
    scores_itself = cell.answer_mode == "options" and "score" in cell.model.abilities and not needs_engine
    if scores_itself and cell.decoding.normalize != "sum" and not cell.model.abilities & {"logits", "strategies"}:
        return f"it scores options by itself, so normalize: {cell.decoding.normalize} would change nothing. Drop it."
    return missing(cell.decoding, cell.model.abilities, "generate" if scores_itself else cell.answer_mode)


def _server_refusal(cell: Cell) -> str | None:
    """Why the model's server refuses this cell's strategy; None if it does not."""
    if not cell.model.is_endpoint:
        return None
    from decoding.engine.server_engine import arm_config

    return cell.model.strategy_refusal(arm_config(cell.decoding))


def check_data(grid: Grid) -> None:
    """Checks tasks, pools and options. Reads the tasks. Raises DataError, ConfigError or PlanError."""
    for cell in {id(cell.task): cell for cell in grid.cells}.values():
        try:
            queries, _ = len(cell.task.queries), cell.task.pool_size
        except (ConfigError, DataError) as error:
            raise type(error)(f"{locate(grid, 'task', cell)}: {error}") from error
        if not queries:
            raise DataError(f"{locate(grid, 'task', cell)}: task '{cell.task.title}' has no queries.")
        _check_meta(cell.task, locate(grid, "task", cell))
    for cell in grid.cells:
        if cell.shots == 0 or cell.shots <= cell.task.pool_size:
            continue
        raise ConfigError(
            f"{locate(grid, 'shots', cell)}: {cell.shots} demonstrations from a pool of {cell.task.pool_size} "
            f"(task '{cell.task.title}'). Use fewer shots, or use a task with a larger pool."
        )
    for cell in grid.cells:
        _check_candidates(grid, cell)
        _check_spare_examples(grid, cell)
    for task in {id(cell.task): cell.task for cell in grid.cells if cell.answer_mode == "options"}.values():
        without_options = next((query.id for query in task.queries if len(query.options) < 2), None)
        if without_options is not None:
            raise PlanError(
                f"{grid.config.where('answer_mode')}: `options` needs answers to choose from, but query "
                f"'{without_options}' of task '{task.title}' has none. Use answer_mode: generate, or add options to "
                "the task."
            )
        if not any(set(query.answers) & set(query.options) for query in task.queries):
            query = task.queries[0]
            options = ", ".join(map(repr, query.options))
            raise PlanError(
                f"{grid.config.where('answer_mode')}: `options` is set, but no query of task '{task.title}' "
                f"has its answer in its options ('{query.id}' has '{query.answer}' and {options}). Write both "
                "the same way."
            )
    for cell in {id(cell.task): cell for cell in grid.cells}.values():
        _check_letters(cell.task, locate(grid, "task", cell))
    _check_columns(grid)


def _check_letters(task: Task, where: str) -> None:
    """Checks that each answer is an option where options have letters: it has no letter otherwise."""
    for example in (*task.queries, *task.pool(task.queries[0].id).examples):
        if problem := letter_problem(example):
            raise DataError(f"{where}: {problem}")


def _check_meta(task: Task, where: str) -> None:
    """Checks that the facts of each query can be stored with its samples."""
    for query in task.queries:
        try:
            json.dumps(dict(query.meta))
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: meta of query '{query.id}' cannot be stored: {error}.") from error


def _check_columns(grid: Grid) -> None:
    """Checks that each column of `by` is a fact of some query with few values. `answer` always is one."""
    queries = [query for task in grid.tasks for query in task.queries] if grid.config.by else []
    facts = [query.stored_meta for query in queries]
    have = dict.fromkeys(key for own in facts for key, value in own.items() if value is not None)
    for name in grid.config.by:
        if name not in have and name != "answer":
            has = any(name in getattr(task, "data_columns", ()) for task in grid.tasks)
            more = f" '{name}' of the data set is empty, or its values are lists, images or long texts." if has else ""
            raise ConfigError(
                f"{grid.config.where('by')}: the data has no column '{name}'.{did_you_mean(name, have)} Columns: "
                f"{', '.join(dict.fromkeys([*have, 'answer']))}.{more}"
            )
        values = [own.get(name) if name in have else query.answer for query, own in zip(queries, facts, strict=True)]
        single = {value for value in values if value is None or isinstance(value, str | int | float)}
        if len(single - {None}) > MAX_COLUMN_VALUES:
            raise ConfigError(
                f"{grid.config.where('by')}: '{name}' has {len(single - {None}):,} values, and a table has at most "
                f"{MAX_COLUMN_VALUES}. Use a coarser column, or add one to the data (`meta` of the task's columns)."
            )


def _check_candidates_read(grid: Grid) -> None:
    config = grid.config
    has_candidates = config.base["rerank_candidates"] is not None or "rerank_candidates" in {*config.grid, *config.zip}
    if (
        has_candidates
        and not any(cell.rerankers for cell in grid.cells if cell.shots)
        and any(cell.shots for cell in grid.cells)
    ):
        key = next(
            (key for key in ("grid", "zip") if "rerank_candidates" in (config.document.data.get(key) or {})), None
        )
        where = config.where(key, "rerank_candidates") if key else config.where("rerank_candidates")
        raise ConfigError(
            f"{where}: rerank_candidates is the number of candidates that the rerankers get, but the file has no "
            "rerankers. Add some (rerankers: [label_balance]), or remove this key."
        )


def _check_candidates(grid: Grid, cell: Cell) -> None:
    """Raises ConfigError if rerankers would get fewer candidates than shots, or more than the pool has."""
    if cell.rerank_candidates is None:
        return
    where, size = locate(grid, "rerank_candidates", cell), cell.task.pool_size
    if cell.rerank_candidates < cell.shots:
        raise ConfigError(
            f"{where}: rerankers choose {cell.shots} shots from {cell.rerank_candidates} candidates. Use at least "
            f"{cell.shots} candidates, or fewer shots."
        )
    if cell.rerank_candidates > size:
        raise ConfigError(
            f"{where}: {cell.rerank_candidates} candidates from a pool of {size} (task '{cell.task.title}'). "
            f"Use at most {size}, or remove rerank_candidates: the default is 50, or the whole pool if it is smaller."
        )


def _check_spare_examples(grid: Grid, cell: Cell) -> None:
    """Raises ConfigError if a transform draws examples from the pool, and demonstrations use all that have images."""
    spare = max((getattr(transform, "spare_examples", 0) for transform in cell.transforms), default=0)
    if not spare or cell.shots + spare <= cell.task.pool_size:
        return
    if any(example.images for example in cell.task.pool(cell.task.queries[0].id).examples):
        raise ConfigError(
            f"{locate(grid, 'transforms', cell)}: {cell.labels['transforms']} puts other images of the pool in place "
            f"of those of the demonstrations, and {cell.shots} shots use the whole pool of {cell.task.pool_size} (task "
            f"'{cell.task.title}'). Use fewer shots, a larger pool, or how: permuted."
        )


def data_digests(task: Task) -> dict[str, str]:
    """Digests of a task's queries (with their gold) and of its pools (the first 32), and the commit of its data."""
    queries = hashlib.sha256()
    for query in task.queries:
        queries.update(repr((query.id, query.question, query.answers, query.options)).encode())
    pools = {id(pool): pool for pool in (task.pool(query.id) for query in task.queries[:MAX_POOLS_HASHED])}
    pool_digest = hashlib.sha256("".join(pool.digest for pool in pools.values()).encode()).hexdigest()
    revision = ", ".join(filter(None, (str(getattr(part, "data_revision", "")) for part in task_parts(task))))
    digests = {"queries": queries.hexdigest()[:16], "pool": pool_digest[:16]}
    return {**digests, **({"revision": revision} if revision else {})}


def locate(grid: Grid, axis: str, cell: Cell) -> str:
    """The place of a cell's value on an axis in the file."""
    for key, axes in (("grid", grid.config.grid), ("zip", grid.config.zip)):
        for i, node in enumerate(axes.get(axis, ())):
            if _is(node, axis, cell):
                return grid.config.where(key, axis, i)
        if axis in axes:
            return grid.config.where(key, axis)
    return grid.config.where(axis)


def _is(node: Any, axis: str, cell: Cell) -> bool:
    return matches(cell.axis_value(axis), axis, node)
