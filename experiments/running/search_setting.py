"""The setting of `icl optimize`: a cell of a study, dev queries, held-out queries and a pool.

Dev queries select the set, and held-out queries measure it. They share no group and no image. Every set is the
retriever `fixed` in this cell, so it is scored on exactly the prompts of a run with this set. Searches that share a
held-out query are counted, because taking the best of them is selection on this query.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import AXES, Config
from experiments.config.yaml_document import parse_override
from experiments.grid import Cell, check_data, check_requirements, expand
from experiments.stats import Floats
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

# Searches for one set of demonstrations that suits all queries, each with a number of model calls at which it stops.
#
#     race        random sets; all on 8 queries, the better half on 16, ... until the last ones have seen all queries
#                 (successive halving; TRIPLE, 2402.09723)
#     random      random sets, each on all queries: the control of the others, at as many calls
#     greedy      k times: the candidate that is best behind the chosen ones, of calls / (k queries) random candidates
#     exchange    a random set, in which one place is exchanged at a time for a random candidate, if that is better
#
# A search sees scores alone, so it runs the same on permuted scores, which say what it finds in noise. A set is a tuple
# of ids in the order of the prompt; its order is a part of it.


DemoSet = tuple[str, ...]
Scorer = Callable[[Sequence[DemoSet], range], Floats]
"""(sets, positions of dev queries) -> scores, [sets, queries]."""
FIRST_QUERIES = 8
"""Queries of the first round of a race."""


@dataclass(frozen=True)
class Problem:
    """What is searched, and at which price.

    Attributes:
        candidates: The ids that may be demonstrations.
        shots: The number of demonstrations in a set.
        queries: The number of dev queries.
        budget: The number of model calls: one is one set on one query.
        seed: Of the random sets.
    """

    candidates: Sequence[str]
    shots: int
    queries: int
    budget: int
    seed: int


@dataclass(frozen=True)
class Choice:
    """The result of a search.

    Attributes:
        demos: The best set.
        score: Its mean over all dev queries.
        sets: The number of sets that were rated.
        calls: The number of model calls, whether or not an earlier search has paid them.
    """

    demos: DemoSet
    score: float
    sets: int
    calls: int


def race_rounds(sets: int, queries: int) -> list[tuple[int, int, int]]:
    """(sets, first query, end of the queries) of each round: half of the sets go on, to twice as many queries."""
    rounds, start, end = [], 0, min(FIRST_QUERIES, queries)
    while start < queries:
        rounds.append((sets, start, end))
        sets, start, end = math.ceil(sets / 2), end, min(2 * end, queries)
    return rounds


def race_calls(sets: int, queries: int) -> int:
    """The model calls of a race."""
    return sum(alive * (end - start) for alive, start, end in race_rounds(sets, queries))


def draw_sets(problem: Problem, count: int) -> list[DemoSet]:
    """Distinct random sets, or all if there are fewer. The first of a larger number are those of a smaller one."""
    count = min(count, math.perm(len(problem.candidates), problem.shots))
    sets: dict[DemoSet, None] = {}
    rng = StreamKey(problem.seed, "sets").numpy("demos")
    while len(sets) < count:
        chosen = rng.permutation(len(problem.candidates))[: problem.shots]
        sets.setdefault(tuple(problem.candidates[i] for i in chosen))
    return list(sets)


def race(problem: Problem, score: Scorer) -> Choice:
    """Successive halving of as many random sets as the budget pays."""
    count = 1
    while count < problem.budget and race_calls(count + 1, problem.queries) <= problem.budget:
        count += 1
    sets = draw_sets(problem, _at_least(2, count, race_calls(2, problem.queries), problem))
    rated, totals, calls = len(sets), np.zeros(len(sets)), 0
    for alive, start, end in race_rounds(rated, problem.queries):
        best = np.sort(np.argsort(-totals, kind="stable")[:alive])
        sets, totals = [sets[i] for i in best], totals[best]
        totals = totals + score(sets, range(start, end)).sum(axis=1)
        calls += alive * (end - start)
    best_set = int(totals.argmax())
    return Choice(sets[best_set], float(totals[best_set]) / problem.queries, rated, calls)


def random(problem: Problem, score: Scorer) -> Choice:
    """The best of random sets that have all been rated on all queries."""
    count = _at_least(2, problem.budget // problem.queries, 2 * problem.queries, problem)
    return _best(draw_sets(problem, count), problem, score)


def greedy(problem: Problem, score: Scorer) -> Choice:
    """One demonstration after the other, each the best behind those before it."""
    least = 2 * problem.shots * problem.queries
    count = _at_least(2, problem.budget // (problem.shots * problem.queries), least, problem)
    rng = StreamKey(problem.seed, "greedy").numpy("demos")
    choice = Choice((), 0.0, 0, 0)
    for _ in range(problem.shots):
        others = [name for name in problem.candidates if name not in choice.demos]
        tried = [(*choice.demos, others[i]) for i in rng.permutation(len(others))[:count]]
        best = _best(tried, problem, score)
        choice = Choice(best.demos, best.score, choice.sets + best.sets, choice.calls + best.calls)
    return choice


def exchange(problem: Problem, score: Scorer) -> Choice:
    """Random exchanges of one place, each kept if the dev score rises."""
    steps = _at_least(2, problem.budget // problem.queries, 2 * problem.queries, problem)
    rng = StreamKey(problem.seed, "exchange").numpy("demos")
    choice = _best(draw_sets(problem, 1), problem, score)
    for number in range(2, steps + 1):
        others = [name for name in problem.candidates if name not in choice.demos]
        if not others:
            break
        place, other = int(rng.integers(problem.shots)), others[int(rng.integers(len(others)))]
        tried = _best([(*choice.demos[:place], other, *choice.demos[place + 1 :])], problem, score)
        better = tried if tried.score > choice.score else choice
        choice = Choice(better.demos, better.score, number, number * problem.queries)
    return choice


SEARCHES: dict[str, Callable[[Problem, Scorer], Choice]] = {
    "race": race, "random": random, "greedy": greedy, "exchange": exchange,
}  # fmt: skip
CHANCE = ("race", "random")
"""The searches whose sets are drawn independently, for which the winner's curse can be forecast."""


def permuted(scores: Sequence[Floats], seed: int) -> Scorer:
    """A scorer that answers each call with the score of a random set on the same query, for no model call.

    Args:
        scores: For each dev query, the scores of the sets that were rated on it.
        seed: Of the permutation.
    """
    rng = StreamKey(seed, "permuted feedback").numpy("scores")

    def score(sets: Sequence[DemoSet], queries: range) -> Floats:
        return np.stack([rng.choice(scores[query], len(sets)) for query in queries], axis=1)

    return score


def _best(sets: Sequence[DemoSet], problem: Problem, score: Scorer) -> Choice:
    means = score(sets, range(problem.queries)).mean(axis=1)
    best = int(means.argmax())
    return Choice(sets[best], float(means[best]), len(sets), len(sets) * problem.queries)


def _at_least(least: int, count: int, calls: int, problem: Problem) -> int:
    """The count. Raises ConfigError with the calls that the smallest search needs if the budget pays fewer."""
    if count < least:
        raise ConfigError(
            f"--budget: {problem.budget:,} model calls do not rate {least} sets on {problem.queries:,} dev queries, "
            f"which takes {calls:,}. Raise it, or use fewer dev queries (--dev)."
        )
    return count


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
