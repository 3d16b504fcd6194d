"""The setting of `icl optimize`: a cell of a study, dev queries, held-out queries and a pool.

Dev queries select the set, and held-out queries measure it. They share no group and no image. Every set is the
retriever `fixed` in this cell, so it is scored on exactly the prompts of a run with this set. Searches that share a
held-out query are counted, because taking the best of them is selection on this query.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.config import AXES, Config
from experiments.config.yaml_document import parse_override
from experiments.grid import Cell, check_data, check_requirements, expand
from experiments.running.set_searches import DemoSet
from experiments.store.store import report_write_errors, write_text
from icl import (
    Component,
    ConfigError,
    Context,
    DataError,
    Example,
    PlanError,
    Pool,
    StreamKey,
    Task,
    build,
    canonical_digest,
    describe,
)
from icl.tasks import check_no_shared_image, connected_components, divide_by_group, image_digests

OBJECTIVES = ("p_gold", "accuracy")
MAX_CANDIDATES = 512
"""Maximal number of candidates. They are drawn at random from a larger pool."""


@dataclass(frozen=True)
class Options:
    """What the user asks of a search.

    Attributes:
        budget: The model calls of each search.
        dev: A number of the study's queries, or keys of its task such as split=validation; by default half of them.
        searches: Names of SEARCHES. The set of the first one is the result.
        objective: One of OBJECTIVES.
        seed: Random seed of the sets, and of the split into dev and held-out queries.
        bootstrap: Whether candidates are only those members of the pool that the model answers correctly.
        instructions: Texts to try in addition to the study's own instruction. Each set is scored with one of all these.
    """

    budget: int
    dev: tuple[str, ...] = ()
    searches: tuple[str, ...] = ("race",)
    objective: str = "p_gold"
    seed: int = 0
    bootstrap: bool = False
    instructions: tuple[str, ...] = ()

    @property
    def column(self) -> int:
        """The place of the objective among the scores of a call."""
        return OBJECTIVES.index(self.objective)


@dataclass(frozen=True)
class OnePool:
    """Queries that share a pool, as a task of `Retrieval`."""

    queries: Sequence[Example]
    of_all: Pool

    def pool(self, query_id: str) -> Pool:
        return self.of_all


@dataclass(frozen=True)
class Setting:
    """The cell, the queries and the pool of a search.

    Attributes:
        study: The cell as the study has it, with its own retriever and order.
        cell: Its retriever is replaced by each set.
        dev: The queries that select the set, in random order.
        test: The held-out queries.
        pool: The candidates for demonstrations.
        whole_pool: The pool of the study.
        used: Sentences that say which setting is used, if the study has several.
        dev_task: The node of the task with the dev queries.
        instructed: Instruction -> the composer with it. The first key is None, for the study's own composer.
    """

    study: Cell
    cell: Cell
    dev: Sequence[Example]
    test: Sequence[Example]
    pool: Pool
    whole_pool: Pool
    used: tuple[str, ...]
    dev_task: Mapping[str, Any]
    instructed: Mapping[str | None, Any]

    @cached_property
    def test_digests(self) -> frozenset[str]:
        """Digests of the held-out queries. They depend on question, options and images, not on ids."""
        contents = ([one.question, one.options, sorted(image_digests(one))] for one in self.test)
        return frozenset(canonical_digest(content)[:16] for content in contents)

    def cells(self, retriever: Mapping[str, Any], seeds: Sequence[int] = ()) -> list[Cell]:
        """The cell with another retriever, under each seed."""
        built = build("retriever", dict(retriever))
        return [replace(self.cell, retriever=built, seed=seed) for seed in seeds or [self.cell.seed]]

    def fixed(self, demos: DemoSet, instruction: str | None = None) -> Cell:
        """The cell with a fixed set, and an instruction in place of the study's own."""
        cell = self.cells({"name": "fixed", "ids": list(demos)})[0]
        return replace(cell, shots=len(demos), composer=self.instructed[instruction])

    def instruction(self, demos: DemoSet) -> str | None:
        """The instruction to score a set with: a random one of all, equal for equal sets."""
        texts = list(self.instructed)
        return texts[StreamKey(0, "\n".join(demos)).number("instruction") % len(texts)]


def read_setting(config: Config, options: Options) -> Setting:
    """The cell, the queries and the pool of a search. Raises as `optimize`."""
    grid = expand(replace(config, compare=None, controls="none"))
    cell = max((one for one in grid.cells if not one.control), key=lambda one: one.shots)
    if not cell.shots:
        raise ConfigError(f"{config.where('shots')}: a set has demonstrations, and shots is 0. Use shots=4.")
    study = replace(cell, answer_mode="options")
    cell = replace(study, order=build("orderer", "as_retrieved"))
    check_requirements(replace(grid, cells=(cell,)))
    queries, where = cell.task.queries, config.where("task")
    is_open = not any(query.options for query in queries)
    check_data(replace(grid, cells=(replace(cell, answer_mode="generate") if is_open else cell,)))
    values = {axis: dict.fromkeys(str(one.labels[axis]) for one in grid.cells) for axis in AXES}
    used = [
        f"{axis} {cell.labels[axis]} is used, of {', '.join(labels)}."
        for axis, labels in values.items()
        if len(labels) > 1 and axis not in ("retriever", "order")
    ]
    pools = {id(pool): pool for pool in (cell.task.pool(query.id) for query in queries)}
    if len(pools) > 1:
        raise PlanError(
            f"{where}: {len(queries)} queries have {len(pools)} pools. One set for all queries needs a common pool."
        )
    (whole,) = pools.values()
    dev, test, dev_task = _divide(config, cell, options)
    judged = [*dev, *test, *(whole.examples if options.bootstrap else ())]
    without = [one.id for one in judged if len(one.options) < 2]
    if without and (options.objective == "accuracy" or options.bootstrap):
        raise ConfigError(
            f"{where}: {len(without)} of {len(judged)} questions have no options, such as '{without[0]}', so a set has "
            "no accuracy. Use --objective p_gold without --bootstrap, or add options to the task."
        )
    ids, images = {one.id for one in (*dev, *test)}, image_digests(*dev, *test)
    key = StreamKey(options.seed, "candidates")
    candidates: list[str] = []
    for example in whole.in_random_order(key, "pool"):
        if len(candidates) < MAX_CANDIDATES and example.id not in ids and not image_digests(example) & images:
            candidates.append(example.id)
    pool = Pool(tuple(example for example in whole.examples if example.id in set(candidates)))
    if len(pool) < len(whole):
        used.append(
            f"{len(pool):,} of {len(whole):,} members of the pool are candidates; none has an image of a query."
        )
    if math.perm(len(pool), cell.shots) < 2 or len(dev) < 2:
        raise DataError(
            f"{where}: {cell.shots} shots, {len(pool)} members of the pool without an image of a dev or held-out "
            f"query, and {len(dev)} dev queries. A search needs at least two possible sets and two dev queries."
        )
    node = {key: value for key, value in cell.config["composer"].items() if key != "instruction"}
    instructed: dict[str | None, Any] = {None: cell.composer}
    for text in options.instructions:
        instructed[text] = build("composer", {**node, "instruction_text": text}, "--instruction")
    prompts = {text: composer.compose(Context(queries[0].query)).digest for text, composer in instructed.items()}
    if equal := [text for text in options.instructions if [*prompts.values()].count(prompts[text]) > 1]:
        raise ConfigError(
            f"--instruction {equal[0][:80]!r}: the study's own instruction, or another one, makes the same prompts. "
            "Leave it out."
        )
    return Setting(study, cell, dev, test, pool, whole, tuple(used), dev_task, instructed)


def _divide(config: Config, cell: Cell, options: Options) -> tuple[list[Example], list[Example], Mapping[str, Any]]:
    """Dev queries in random order, held-out queries, and the task of the former. Raises ConfigError or DataError."""
    queries, node = list(cell.task.queries), cell.config["task"]
    if not options.dev or not all("=" in one for one in options.dev):
        share = _share(options.dev, len(queries))
        rows = connected_components([[one.group or one.id, *image_digests(one)] for one in queries])
        groups, where = list(map(str, rows)), config.where("task")
        held_out, dev = divide_by_group(groups, share, options.seed, "optimize/dev", where)
        parts = [queries[i] for i in dev], [queries[i] for i in held_out]
    else:
        other = Component("task", str(node["name"]), type(cell.task), {})
        other = replace(other, parameters={key: node[key] for key in other.parameter_names if key in node})
        for key, value in map(parse_override, options.dev):
            other = other.with_parameter(key.split("."), value, "--dev")
        task: Task = other.build()
        parts, node = (list(task.queries), queries), describe(task)
        advice = "A set that is chosen on its own test proves nothing: use another split."
        check_no_shared_image(parts[0], queries, "--dev", ("held-out queries", "dev queries"), advice)
        owners = {key: one.id for one in parts[0] for key in (one.id, one.group) if key}
        for one in queries:
            if owner := owners.get(one.id) or owners.get(one.group or ""):
                raise DataError(
                    f"--dev: dev query '{owner}' and held-out query '{one.id}' have the same group or id. {advice}"
                )
    dev_order = StreamKey(options.seed, "dev").order("queries", [one.id for one in parts[0]])
    return [parts[0][i] for i in dev_order], parts[1], node


def _share(dev: Sequence[str], queries: int) -> float:
    """The share of the queries that is dev: half, or a number of them."""
    if not dev:
        return 0.5
    if len(dev) > 1 or not dev[0].isdecimal() or not 0 < int(dev[0]) < queries:
        raise ConfigError(
            f"--dev is a number below the {queries:,} queries of the study, or keys of its task such as "
            f"split=validation, not '{' '.join(dev)}'."
        )
    return int(dev[0]) / queries


def count_uses(folder: Path, search: str, test: frozenset[str]) -> int:
    """Records this search, and counts the searches with a common held-out query. The same search again counts once.

    Args:
        folder: A file for each search, with the digests of its held-out queries.
        search: Identifies this search.
        test: Digests of its held-out queries.
    """
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / search, "\n".join(sorted(test)) + "\n")
        files = (file for file in folder.iterdir() if file.is_file())
        return sum(not test.isdisjoint(file.read_text(encoding="utf-8", errors="replace").split()) for file in files)
