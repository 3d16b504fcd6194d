"""One fixed set of demonstrations for all queries (`icl optimize`), chosen on dev queries and judged on held-out ones.

The setting is one cell of a study. Every set is the retriever `fixed` in that cell, so it is rated on the very prompts
that a run with this set has. A call is one prompt whose options are scored; p_gold is the probability of the accepted
answers among them. Each call is one line of calls.jsonl, so that a killed search continues and pays nothing twice.

A dev score says how well a set suits the queries that chose it. So the same held-out queries also rate random sets,
sets that need no model call, the set of a search on permuted scores, and the best of random sets at as many calls.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import AXES, Config
from experiments.config.yaml_document import parse_override
from experiments.contexts.contexts import PromptItem, PromptSpec, Retrieval, build_contexts, render
from experiments.grid import Cell, check_data, check_requirements, expand, fitting_origin, template_digest
from experiments.running.generation import Answer, SampleRequest, answer
from experiments.running.set_searches import CHANCE, SEARCHES, Choice, DemoSet, Problem, permuted
from experiments.stats import Estimate, Floats, estimate_mean, format_count
from experiments.stats.selection import SelectionForecast, forecast_selection
from experiments.store.store import report_write_errors, truncate_partial_line
from experiments.terminal.spinner import ReportProgress
from icl import (
    Component,
    ConfigError,
    DataError,
    Example,
    ICLError,
    PlanError,
    Pool,
    StoreError,
    StreamKey,
    Task,
    build,
    canonical_digest,
    describe,
    did_you_mean,
)
from icl.metrics import accepted_probability, is_accepted, is_best_option
from icl.tasks import connected_components, divide_by_group
from retrievers import ALLOW_LEAKS, Resources

OBJECTIVES = ("p_gold", "accuracy")
CALLS = "calls.jsonl"
CHUNK = 256
"""Calls that are sent together."""
RANDOM_DRAWS = 4
"""Random sets of each query, whose mean is the mean random set."""
PERMUTATIONS = 8
"""Searches on permuted scores."""
MAX_CANDIDATES = 512
"""Members of a larger pool that may be demonstrations: as many are drawn."""
BOOTSTRAP_SHARE = 4
"""A bootstrapped search spends at most one call of so many on members of the pool."""


@dataclass(frozen=True)
class Options:
    """What the user asks of a search.

    Attributes:
        budget: The model calls of each search.
        dev: A number of the study's queries, or keys of its task such as split=validation; by default half of them.
        searches: Names of SEARCHES. The set of the first one is the result.
        objective: One of OBJECTIVES.
        seed: Of all random sets, and of the division of queries.
        bootstrap: Whether only members of the pool that the model itself answers rightly may be demonstrations.
    """

    budget: int
    dev: tuple[str, ...] = ()
    searches: tuple[str, ...] = ("race",)
    objective: str = "p_gold"
    seed: int = 0
    bootstrap: bool = False

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
    """What is searched on.

    Attributes:
        study: The cell as the study has it, with its own retriever and order.
        cell: Its retriever is replaced by each set.
        dev: The queries that choose, in random order.
        test: The queries that judge.
        pool: The members that may be demonstrations.
        whole_pool: The pool of the study.
        used: What of a study with several settings is used.
        dev_task: The node of the task with the dev queries.
    """

    study: Cell
    cell: Cell
    dev: Sequence[Example]
    test: Sequence[Example]
    pool: Pool
    whole_pool: Pool
    used: tuple[str, ...]
    dev_task: Mapping[str, Any]

    @cached_property
    def test_digest(self) -> str:
        """Identifies the held-out queries by their ids and images."""
        return canonical_digest(sorted([one.id, sorted(_images(one))] for one in self.test))

    def cells(self, retriever: Mapping[str, Any], seeds: Sequence[int] = ()) -> list[Cell]:
        """The cell with another retriever, under each seed."""
        built = build("retriever", dict(retriever))
        return [replace(self.cell, retriever=built, seed=seed) for seed in seeds or [self.cell.seed]]

    def fixed(self, demos: DemoSet) -> Cell:
        """The cell with a fixed set."""
        return replace(self.cells({"name": "fixed", "ids": list(demos)})[0], shots=len(demos))


@dataclass(frozen=True)
class SetScores:
    """One way to choose demonstrations.

    Attributes:
        name: What a table calls it.
        test: [held-out queries] scores.
        right: [held-out queries] accuracies.
        choice: The set that was searched, or None.
        dev_gain: Its dev score minus that of the mean random set.
        forecast: Of a search among independent sets.
        units: [held-out queries] labels; equal ones belong to one unit of the intervals. By default groups.
    """

    name: str
    test: Floats
    right: Floats
    choice: Choice | None = None
    dev_gain: float | None = None
    forecast: SelectionForecast | None = None
    units: Sequence[Any] | None = None


@dataclass(frozen=True)
class Optimized:
    """The result of `optimize`. rows: the result first, then what it is compared with; the mean random set is last.

    Attributes:
        uses: Searches that have read these held-out queries, this one included.
        calls: Distinct model calls in all, with those of the comparison.
        paid: Those of them that this process has made.
        tokens: Prompt tokens of all calls.
        notes: What the reader should know.
    """

    setting: Setting
    options: Options
    rows: Sequence[SetScores]
    uses: int
    calls: int
    paid: int
    tokens: int
    notes: Sequence[str]

    @property
    def choice(self) -> Choice:
        choice = self.rows[0].choice
        assert choice is not None
        return choice

    def gain(self, row: SetScores, over: SetScores) -> Estimate:
        """The mean difference on the held-out queries, with its interval over their groups."""
        return estimate_mean(row.test - over.test, self.units(row), bounded=False)

    def units(self, row: SetScores) -> Sequence[Any]:
        """[held-out queries] labels of the independent units of a row."""
        return row.units or [one.group or one.id for one in self.setting.test]

    @cached_property
    def demos(self) -> list[Example]:
        """The set in the order of the prompt."""
        return [self.setting.whole_pool.by_id[name] for name in self.choice.demos]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of set.json, which the retriever `fixed` reads."""
        cell, options = self.setting.cell, self.options
        random = self.rows[-1]
        return {
            "demos": list(self.choice.demos),
            "answers": [demo.answer for demo in self.demos],
            **fitting_origin(cell.model.digest, self.setting.dev_task),
            "template_digest": template_digest(cell),
            "keeps_order": True,
            "shots": cell.shots,
            "budget": options.budget,
            "objective": options.objective,
            "seed": options.seed,
            "dev": [one.id for one in self.setting.dev],
            "test": [one.id for one in self.setting.test],
            "test_split_uses": self.uses,
            "calls": self.calls,
            "prompt_tokens": self.tokens,
            "results": [
                {
                    "name": row.name,
                    "test": float(row.test.mean()),
                    "test_accuracy": float(row.right.mean()),
                    **({} if row is random else {"test_gain": vars(self.gain(row, random))}),
                    **({} if row.choice is None else vars(row.choice)),
                    **({} if row.dev_gain is None else {"dev_gain": row.dev_gain}),
                    **({} if row.forecast is None else {"forecast": vars(row.forecast)}),
                }
                for row in self.rows
            ],
        }


def optimize(config: Config, options: Options, folder: Path, report: ReportProgress) -> Optimized:
    """Searches a set and rates it on held-out queries. Writes only calls.jsonl and the counter of held-out queries.

    Args:
        config: A study. Of several settings, the first is used, with the most shots.
        options: What is asked.
        folder: Of the search. Its parent has the counter.
        report: Progress.

    Raises:
        ConfigError: A wrong option, or a budget that pays no search.
        DataError: Dev and held-out queries share a group or an image, or the pool is too small.
        PlanError: The study has a pool for each query, or its options cannot be scored.
    """
    for option, value, names in (
        *(("search", name, SEARCHES) for name in options.searches),
        ("objective", options.objective, OBJECTIVES),
    ):
        if value not in names:
            raise ConfigError(f"--{option}: no {option} '{value}'.{did_you_mean(value, names)} {', '.join(names)}.")
    setting = read_setting(config, options)
    calls = Calls(folder / CALLS, setting.cell, report)
    candidates, budget, notes = [one.id for one in setting.pool.examples], options.budget, list(setting.used)
    if options.bootstrap:
        candidates, spent = _bootstrap(setting, options, calls)
        notes.append(
            f"{format_count(len(candidates), 'member')} of {spent:,} tried are answered correctly by the model."
        )
        budget -= spent
    problem = Problem(candidates, setting.cell.shots, len(setting.dev), budget, options.seed)
    rows = _compare(setting, options, calls, _search(problem, setting, options, calls), notes)
    search = [calls.setting, vars(options), setting.cell.digest, [one.id for one in setting.dev]]
    uses = _count_use(folder.parent / "test_splits" / setting.test_digest[:16], canonical_digest(search)[:16])
    return Optimized(setting, options, rows, uses, len(calls.used_keys), calls.paid, calls.tokens, notes)


Searched = tuple[dict[str, Choice], Floats, list[Choice]]
"""The choice of each search, the scores [sets, dev queries] of `random`, and choices on permuted scores."""


def _search(problem: Problem, setting: Setting, options: Options, calls: "Calls") -> Searched:
    """Runs the searches. Raises ConfigError if the budget pays one of them not."""
    names, rated = list(dict.fromkeys([*options.searches, "random"])), list[Floats]()
    for name in names:  # a budget that is too small for one of them is refused before any is paid
        SEARCHES[name](problem, lambda sets, queries: np.zeros((len(sets), len(queries))))

    def score(sets: Sequence[DemoSet], queries: range) -> Floats:
        cells = [setting.fixed(demos) for demos in sets]
        rated.append(calls.rate(cells, [setting.dev[i] for i in queries], setting.pool)[..., options.column])
        return rated[-1]

    random = SEARCHES["random"](problem, score)
    (every,) = rated
    choices = {name: random if name == "random" else SEARCHES[name](problem, score) for name in names}
    nulls = [SEARCHES[names[0]](problem, permuted(list(every.T), seed)) for seed in range(PERMUTATIONS)]
    return choices, every, nulls


def _compare(
    setting: Setting, options: Options, calls: "Calls", searched: "Searched", notes: list[str]
) -> list[SetScores]:
    """Held-out scores of all that is compared, the mean random set last."""
    column, pool, test = options.column, setting.pool, setting.test
    choices, every, nulls = searched

    def row(name: str, cells: Sequence[Cell], pool: Pool = pool, **more: Any) -> SetScores:
        rated = calls.rate(cells, test, pool).mean(axis=0)
        return SetScores(name, rated[:, column], rated[:, 1], **more)

    draws = setting.cells({"name": "random"}, range(options.seed, options.seed + RANDOM_DRAWS))
    dev_random, rows = float(calls.rate(draws, setting.dev, pool)[..., column].mean()), list[SetScores]()
    for name, choice in choices.items():
        gain = choice.score - dev_random
        (chosen,) = calls.rate([setting.fixed(choice.demos)], setting.dev, pool)[..., column]
        forecast = forecast_selection(every, chosen, choice.sets) if name in CHANCE else None
        rows.append(row(name, [setting.fixed(choice.demos)], choice=choice, dev_gain=gain, forecast=forecast))
    # Each permuted search chooses a random set, which rates a part of the queries and is a unit of the interval.
    units, rated = [number % len(nulls) for number in range(len(test))], np.zeros((len(test), len(OBJECTIVES)))
    for unit in set(units):
        part = slice(unit, None, len(nulls))
        (rated[part],) = calls.rate([setting.fixed(nulls[unit].demos)], test[part], pool)
    gain = float(np.mean([null.score for null in nulls]) - every.mean())
    rows.append(SetScores("permuted scores", rated[:, column], rated[:, 1], dev_gain=gain, units=units))
    rows += [row(name, [setting.fixed(demos)]) for name, demos in _free_sets(setting, options.seed, notes)]
    own = setting.cell.labels["retriever"]
    if setting.cell.retriever is not None and own != "random":
        rows.append(row(f"{own} (study)", [setting.study], setting.whole_pool))
    return [*rows, row("no demonstrations", [replace(setting.cell, shots=0)]), row("mean random set", draws)]


class Calls:
    """The model calls of a setting, each paid once: a line of a file.

    Args:
        path: The file, made if it does not exist.
        cell: Its model and decoding answer.
        report: Progress.
    """

    def __init__(self, path: Path, cell: Cell, report: ReportProgress) -> None:
        self.path, self.cell, self.report = path, cell, report
        decoding = [cell.decoding.config, cell.config["intervene"], cell.max_thinking_tokens]
        self.setting = canonical_digest([cell.model.digest, decoding])[:16]
        self.stored = _read_calls(path)
        self.used_keys: dict[str, None] = {}
        """Keys of the calls of this search, paid by it or by an earlier one."""
        self.paid = 0

    @property
    def tokens(self) -> int:
        """The prompt tokens of the calls of this search."""
        return sum(int(self.stored[key]["tokens"]) for key in self.used_keys)

    def rate(self, cells: Sequence[Cell], queries: Sequence[Example], pool: Pool) -> Floats:
        """p_gold and accuracy of each cell on each query: [cells, queries, 2]. Pays the calls that are missing.

        Raises:
            DataError: A prompt cannot be composed, or the model gives no scores for it.
        """
        self.cell.model.load()
        retrieval: Any = Retrieval(OnePool(queries, pool), self.cell.model)  # type: ignore[arg-type]
        specs = [PromptSpec((cell,)) for cell in cells]
        missing: dict[str, SampleRequest] = {}
        keys: list[list[tuple[str, PromptItem]]] = []
        for items in build_contexts(retrieval, specs, queries):
            requests = [self._request(render(item)) for item in items]
            keys.append([(self._key(request), request.item) for request in requests])
            missing |= {key: one for (key, _), one in zip(keys[-1], requests, strict=True) if key not in self.stored}
        self._pay(missing)
        self.used_keys |= dict.fromkeys(key for of_query in keys for key, _ in of_query)
        return np.array(
            [[rate_options(self.stored[key]["scores"], item.example) for key, item in of_query] for of_query in keys]
        ).transpose(1, 0, 2)

    def _request(self, item: PromptItem) -> SampleRequest:
        where = f"query '{item.example.id}'"
        if item.prompt is None:
            raise DataError(f"{where}: {item.failure}")
        if item.num_dropped:
            raise PlanError(
                f"{where}: {item.num_dropped} of {self.cell.shots} demonstrations do not fit into the model's context. "
                "Use fewer shots."
            )
        if not any(is_accepted(option, item.example.answers) for option in item.example.options):
            raise PlanError(
                f"{where}: a set is scored by the probability of the answer among the options, but "
                f"'{item.example.answer}' is none of the {len(item.example.options)} options. Add options to the task."
            )
        return SampleRequest(item.spec.cell, item, item.prompt)

    def _key(self, request: SampleRequest) -> str:
        paired = request.prompt.paired_prompt
        read = [request.prompt.digest, paired.digest if paired else None, request.options]
        return canonical_digest([self.setting, *read])[:32]

    def _pay(self, missing: Mapping[str, SampleRequest]) -> None:
        keys = {id(request): key for key, request in missing.items()}
        requests, failures, paid_before = list(missing.values()), list[str](), self.paid
        from decoding import Counters

        with report_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:

            def store(request: SampleRequest, result: Answer) -> None:
                if isinstance(result, str) or not np.isfinite(np.max(list(result.option_scores.values()))):
                    why = result if isinstance(result, str) else f"the model scores its options {result.option_scores}."
                    failures.append(f"query '{request.item.example.id}': {why}")
                    return
                key = keys[id(request)]
                line = {"key": key, "scores": dict(result.option_scores), "tokens": result.usage.prompt_tokens}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                self.stored[key] = line
                self.paid += 1
                self.report("calls", self.paid - paid_before, len(requests))

            for start in range(0, len(requests), CHUNK):
                answer(self.cell.model, requests[start : start + CHUNK], Counters(), store)
                if failures:
                    raise DataError(f"{failures[0]} A set must be scored on every query.")


def rate_options(scores: Mapping[str, float], example: Example) -> tuple[float, float]:
    """(probability of the accepted answers among the options, whether the likeliest option is one of them).

    Args:
        scores: Option -> log-probability. An option that the endpoint does not list has probability 0.
        example: The query with its accepted answers.
    """
    return accepted_probability(scores, example.answers), float(is_best_option(scores, example.answers))


def read_setting(config: Config, options: Options) -> Setting:
    """The cell, the queries and the pool of a search. Raises as `optimize`."""
    grid = expand(replace(config, compare=None, controls="none"))
    cell = max((one for one in grid.cells if not one.control), key=lambda one: one.shots)
    if not cell.shots:
        raise ConfigError(f"{config.where('shots')}: a set has demonstrations, and shots is 0. Use shots=4.")
    study = replace(cell, answer_mode="options")
    cell = replace(study, order=build("orderer", "as_retrieved"))
    one = replace(grid, cells=(cell,))
    check_data(one)
    check_requirements(one)
    queries, where = cell.task.queries, config.where("task")
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
    ids, images = {one.id for one in (*dev, *test)}, set().union(*map(_images, (*dev, *test)))
    key = StreamKey(options.seed, "candidates")
    candidates: list[str] = []
    for example in whole.in_random_order(key, "pool"):
        if len(candidates) < MAX_CANDIDATES and example.id not in ids and not _images(example) & images:
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
    return Setting(study, cell, dev, test, pool, whole, tuple(used), dev_task)


def _divide(config: Config, cell: Cell, options: Options) -> tuple[list[Example], list[Example], Mapping[str, Any]]:
    """Dev queries in random order, held-out queries, and the task of the former. Raises ConfigError or DataError."""
    queries, node = list(cell.task.queries), cell.config["task"]
    if not options.dev or not all("=" in one for one in options.dev):
        share = _share(options.dev, len(queries))
        rows = connected_components([[one.group or one.id, *_images(one)] for one in queries])
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
        owners = {key: one.id for one in parts[0] for key in (one.id, one.group, *_images(one)) if key}
        for one in queries:
            if shared := next((key for key in (one.id, one.group, *_images(one)) if key in owners), None):
                what = "image" if shared in _images(one) else "group or id"
                raise DataError(
                    f"--dev: dev query '{owners[shared]}' and held-out query '{one.id}' have the same {what}. A set "
                    "that is chosen on its own test proves nothing: use another split."
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


def _images(example: Example) -> set[str]:
    return {image.source_digest for image in example.images}


def _bootstrap(setting: Setting, options: Options, calls: Calls) -> tuple[list[str], int]:
    """Members of the pool that the model answers rightly after random others, and the number that was tried."""
    tried = list(setting.pool.in_random_order(StreamKey(options.seed, "bootstrap"), "pool"))
    tried = tried[: options.budget // BOOTSTRAP_SHARE]
    right = calls.rate(setting.cells({"name": "random"}), tried, setting.pool)[0, :, 1] if tried else np.zeros(0)
    names = [one.id for one, is_right in zip(tried, right, strict=True) if is_right]
    if math.perm(len(names), setting.cell.shots) < 2:
        raise DataError(
            f"--bootstrap: the model answers {len(names)} of {len(tried)} members of the pool correctly, and a set "
            f"needs {setting.cell.shots}. Raise --budget, or leave --bootstrap out."
        )
    return names, len(tried)


def _free_sets(setting: Setting, seed: int, notes: list[str]) -> list[tuple[str, DemoSet]]:
    """Sets that need no model call: what retrievers choose for one member of the pool as the query."""
    k, pool = setting.cell.shots, setting.pool
    first = next(pool.in_random_order(StreamKey(seed, "free"), "first"))
    nodes = {
        "free: each label": {"name": "balanced"},
        "free: k-center": {"name": "mmr", "balance": 0.0, "candidates": len(pool)},
        "free: vote-k": {"name": "vote_k", "size": k, "neighbors": min(len(pool) - 1, 10) or 1},
    }
    sets = []
    for name, node in nodes.items():
        try:
            (demos,) = build("retriever", node).fit(pool, Resources(seed)).retrieve([first.query], k, ALLOW_LEAKS)
            sets.append((name, tuple(demo.id for demo in demos)))
        except ICLError as error:
            notes.append(f"{name} is left out: {error}")
    return sets


def _count_use(folder: Path, search: str) -> int:
    """Counts this search among those that have read the held-out queries. The same search again counts once."""
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / search).touch()
        return sum(1 for _ in folder.iterdir())


def _read_calls(path: Path) -> dict[str, dict[str, Any]]:
    """The paid calls by key, after a partial last line is cut off. Raises StoreError for a damaged line."""

    def parse(raw: bytes) -> dict[str, Any] | None:
        try:
            line = json.loads(raw)
            return {"key": line["key"], "scores": {**line["scores"]}, "tokens": int(line["tokens"])}
        except (ValueError, KeyError, TypeError):
            return None

    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(path, parse)
        lines = path.read_bytes().splitlines() if path.is_file() else []
    calls = {}
    for number, raw in enumerate(lines, 1):
        if (line := parse(raw)) is None:
            raise StoreError(f"line {number} of {path} is damaged. Remove the line: its call is then made again.")
        calls[line["key"]] = line
    return calls
