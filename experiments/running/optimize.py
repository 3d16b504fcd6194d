"""One fixed set of demonstrations for all queries (`icl optimize`), chosen on dev queries and judged on held-out ones.

A call scores the options of one prompt; p_gold is the probability of the accepted answers among them. A question
without options is scored by the probability of its best accepted answer, and has no accuracy.

A dev score says how well a set suits the queries that selected it. So the same held-out queries also measure random
sets, sets that need no model call, the set of a search on permuted scores, and the best of random sets for as many
calls.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.contexts.contexts import PromptItem, PromptSpec, Retrieval, arrange, build_contexts, render
from experiments.grid import Cell, fitting_origin, template_digest
from experiments.running.paid_calls import PaidCalls, Scores, gold_probability, is_choice
from experiments.running.search_setting import (
    CHANCE,
    OBJECTIVES,
    SEARCHES,
    Choice,
    DemoSet,
    OnePool,
    Options,
    Problem,
    Setting,
    count_uses,
    permuted,
    read_setting,
)
from experiments.stats import Estimate, Floats, estimate_mean, format_count
from experiments.terminal.progress import ReportProgress
from icl import (
    ConfigError,
    DataError,
    Example,
    ICLError,
    PlanError,
    Pool,
    RetrievedExample,
    StreamKey,
    build,
    canonical_digest,
    describe,
    did_you_mean,
    scipy,
    spans,
)
from icl.metrics import is_best_option
from icl.models.chat_messages import data_url, messages
from retrievers import ALLOW_LEAKS, Resources

# The winner's curse: how much of a dev score comes from choosing the best of many sets on the queries that rate them.
#
# Sets of demonstrations are rated by a matrix [sets, queries]. The scores of set s on query q are
#
#     a(s, q) = mean + set s + query q + residual;  v = variance of the residual / queries,  T = variance of the sets
#
# Queries are common to all sets and choose none, so only the residual is noise. With e the mean largest of R standard
# normal numbers, the best of R sets has in expectation
#
#     gain in pure noise = e sqrt(v)    dev gain = e sqrt(v + T)
#
# The curse is the error of the chosen set that its dev gain implies. With w the variance of its own residual / queries,
#
#     curse = dev gain w / (w + T)
#
# Sets with large residuals are chosen more often, so w is usually above v. Independent normal errors are assumed. The
# components of variance are those of a two-way layout with one value in a cell (Searle et al. 1992).


@dataclass(frozen=True)
class SelectionForecast:
    """What choosing the best of several sets is worth, in units of the score.

    Attributes:
        noise: The dev gain if all sets were equally good.
        dev_gain: Dev score of the best set minus the mean set.
        curse: The part of it that other queries do not show.
    """

    noise: float
    dev_gain: float
    curse: float


@lru_cache
def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` independent standard normal numbers: 0 for one, 1.42 for eight."""

    def density(x: float) -> float:
        """x times the density of the maximum, in logarithms: the distribution function is tiny to a high power."""
        return float(x * count * np.exp((count - 1) * scipy.special.log_ndtr(x) - x * x / 2) / np.sqrt(2 * np.pi))

    return float(scipy.integrate.quad(density, -10, 10, points=[0.0], limit=200)[0])


def variance_components(scores: Floats) -> tuple[float, float]:
    """(variance of the residual of one score, variance of the true scores of sets, at least 0).

    Args:
        scores: [sets, queries], two or more of each.
    """
    sets, queries = scores.shape
    means = scores.mean(axis=1)
    residuals = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    residual = float((residuals**2).sum() / ((sets - 1) * (queries - 1)))
    return residual, max(0.0, float(means.var(ddof=1)) - residual / queries)


def forecast_selection(scores: Floats, chosen: Floats, sets: int) -> SelectionForecast:
    """The forecast for a set that was chosen on dev queries, from their scores alone.

    Args:
        scores: [sets, queries] dev scores of independent sets, two or more of each.
        chosen: [queries] dev scores of the chosen set.
        sets: The number of sets that it was chosen from.
    """
    residual, between = variance_components(scores)
    own = float((chosen - scores.mean(axis=0)).var(ddof=1)) / len(chosen)
    noise, largest = residual / len(chosen), expected_maximum(sets)
    gain = largest * (noise + between) ** 0.5
    return SelectionForecast(largest * noise**0.5, gain, gain * own / (own + between) if own else 0.0)


CALLS = "calls.jsonl"
RANDOM_DRAWS = 4
"""Random sets of each query, whose mean is the mean random set."""
PERMUTATIONS = 8
"""Searches on permuted scores."""
BOOTSTRAP_SHARE = 4
"""A bootstrapped search spends at most one call of so many on members of the pool."""


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
        uses: Searches that have read one of these held-out queries, this one included.
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

    @property
    def cell(self) -> Cell:
        """The cell that a run with the set and its instruction has."""
        return self.setting.fixed(self.choice.demos, self.setting.instruction(self.choice.demos))

    @cached_property
    def demos(self) -> list[Example]:
        """The set in the order of the prompt."""
        return [self.setting.whole_pool.by_id[name] for name in self.choice.demos]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of set.json, which the retriever `fixed` reads."""
        cell, options = self.cell, self.options
        random = self.rows[-1]
        return {
            "demos": list(self.choice.demos),
            "answers": [demo.answer for demo in self.demos],
            **fitting_origin(cell.model.digest, self.setting.dev_task),
            "template_digest": template_digest(cell),
            "keeps_order": True,
            "composer": describe(cell.composer),
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
                    **({} if np.isnan(row.right).any() else {"test_accuracy": float(row.right.mean())}),
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
    if options.instructions and not {*options.searches} <= {*CHANCE}:
        raise ConfigError(
            f"--instruction: only {' and '.join(CHANCE)} compare instructions, because each random set has a random "
            "one. Use one of these searches."
        )
    setting = read_setting(config, options)
    calls = PaidCalls(folder / CALLS, setting.cell, report)
    candidates, budget, notes = [one.id for one in setting.pool.examples], options.budget, list(setting.used)
    if options.bootstrap:
        candidates, spent = _bootstrap(setting, options, calls)
        notes.append(
            f"{format_count(len(candidates), 'member')} of {spent:,} tried are answered correctly by the model."
        )
        budget -= spent
    problem = Problem(candidates, setting.cell.shots, len(setting.dev), budget, options.seed)
    searched = _search(problem, setting, options, calls)
    search = [calls.setting, vars(options), setting.cell.digest, [one.id for one in (*setting.dev, *setting.test)]]
    # Before the first call on a held-out query: a search that is killed there has read it.
    uses = count_uses(folder.parent / "test_splits", canonical_digest(search)[:16], setting.test_digests)
    rows = _compare(setting, options, calls, searched, notes)
    return Optimized(setting, options, rows, uses, len(calls.used), calls.paid, calls.tokens, notes)


Searched = tuple[dict[str, Choice], Floats, list[Choice]]
"""The choice of each search, the scores [sets, dev queries] of `random`, and choices on permuted scores."""


def _search(problem: Problem, setting: Setting, options: Options, calls: PaidCalls) -> Searched:
    """Runs the searches. Raises ConfigError if the budget pays one of them not."""
    names, rated = list(dict.fromkeys([*options.searches, "random"])), list[Floats]()
    for name in names:  # a budget that is too small for one of them is refused before any is paid
        SEARCHES[name](problem, lambda sets, queries: np.zeros((len(sets), len(queries))))

    def score(sets: Sequence[DemoSet], queries: range) -> Floats:
        cells = [setting.fixed(demos, setting.instruction(demos)) for demos in sets]
        rated.append(rate(calls, cells, [setting.dev[i] for i in queries], setting.pool)[..., options.column])
        return rated[-1]

    random = SEARCHES["random"](problem, score)
    (every,) = rated
    choices = {name: random if name == "random" else SEARCHES[name](problem, score) for name in names}
    nulls = [SEARCHES[names[0]](problem, permuted(list(every.T), seed)) for seed in range(PERMUTATIONS)]
    return choices, every, nulls


def _compare(
    setting: Setting, options: Options, calls: PaidCalls, searched: Searched, notes: list[str]
) -> list[SetScores]:
    """Held-out scores of all that is compared, the mean random set last."""
    column, pool, test = options.column, setting.pool, setting.test
    choices, every, nulls = searched
    calls.what = "comparisons"

    def row(name: str, cells: Sequence[Cell], pool: Pool = pool, **more: Any) -> SetScores:
        rated = rate(calls, cells, test, pool).mean(axis=0)
        return SetScores(name, rated[:, column], rated[:, 1], **more)

    draws = setting.cells({"name": "random"}, range(options.seed, options.seed + RANDOM_DRAWS))
    dev_random, rows = float(rate(calls, draws, setting.dev, pool)[..., column].mean()), list[SetScores]()
    for name, choice in choices.items():
        gain = choice.score - dev_random
        own = [setting.fixed(choice.demos, setting.instruction(choice.demos))]
        (chosen,) = rate(calls, own, setting.dev, pool)[..., column]
        forecast = forecast_selection(every, chosen, choice.sets) if name in CHANCE else None
        if forecast and options.instructions:  # the dev gain is over random sets with the study's instruction
            forecast = replace(forecast, dev_gain=forecast.dev_gain + float(every.mean()) - dev_random)
        rows.append(row(name, own, choice=choice, dev_gain=gain, forecast=forecast))
    # Each permuted search chooses a random set, which rates a part of the queries and is a unit of the interval. With
    # the instruction of the random sets that it is compared with, its gain has nothing of a better instruction.
    units, rated = [number % len(nulls) for number in range(len(test))], np.zeros((len(test), len(OBJECTIVES)))
    for unit in set(units):
        part = slice(unit, None, len(nulls))
        (rated[part],) = rate(calls, [setting.fixed(nulls[unit].demos)], test[part], pool)
    gain = float(np.mean([null.score for null in nulls]) - every.mean())
    rows.append(SetScores("permuted scores", rated[:, column], rated[:, 1], dev_gain=gain, units=units))
    best = choices[options.searches[0]].demos
    if (text := setting.instruction(best)) is not None:
        rows.append(row("its set, the study's instruction", [setting.fixed(best)]))
        instructed = [replace(one, composer=setting.instructed[text]) for one in draws]
        rows.append(row("random sets, its instruction", instructed))
    rows += [row(name, [setting.fixed(demos)]) for name, demos in _free_sets(setting, options.seed, notes)]
    own = setting.cell.labels["retriever"]
    if setting.cell.retriever is not None and own != "random":
        rows.append(row(f"{own} (study)", [setting.study], setting.whole_pool))
    return [*rows, row("no demonstrations", [replace(setting.cell, shots=0)]), row("mean random set", draws)]


def rate(calls: PaidCalls, cells: Sequence[Cell], queries: Sequence[Example], pool: Pool) -> Floats:
    """p_gold and accuracy of each cell on each query: [cells, queries, 2]. Makes the calls that are not stored.

    Raises:
        DataError: A prompt cannot be composed, or the model gives no scores for it.
        PlanError: A prompt lacks a demonstration, or the answer is none of the options.
    """
    retrieval: Any = Retrieval(OnePool(queries, pool), calls.cell.model)  # type: ignore[arg-type]
    specs = [PromptSpec((cell,)) for cell in cells]
    items = [render(item) for of_query in build_contexts(retrieval, specs, queries) for item in of_query]
    for item in items:
        _check_item(item)
    rated = [_rate_item(item, scores) for item, scores in zip(items, calls.scores(items), strict=True)]
    return np.array(rated).reshape(len(queries), len(cells), len(OBJECTIVES)).transpose(1, 0, 2)


def _check_item(item: PromptItem) -> None:
    example, where = item.example, f"query '{item.example.id}'"
    if item.num_dropped:
        raise PlanError(
            f"{where}: {item.num_dropped} of {item.spec.cell.shots} demonstrations do not fit into the model's "
            "context. Use fewer shots."
        )
    if len(example.options) > 1 and not is_choice(example):
        raise PlanError(
            f"{where}: a set is scored by the probability of the answer among the options, but '{example.answer}' is "
            f"none of the {len(example.options)} options. Add it to the options."
        )


def _rate_item(item: PromptItem, scores: Scores | str) -> tuple[float, float]:
    if isinstance(scores, str):
        raise DataError(f"{scores} A set must be scored on every query, and '{item.example.id}' has no score.")
    return rate_options(scores, item.example)


def rate_options(scores: Scores, example: Example) -> tuple[float, float]:
    """(p_gold, whether the likeliest option is accepted; NaN for an open question).

    Args:
        scores: As for `gold_probability`.
        example: The query with its accepted answers.
    """
    accuracy = float(is_best_option(scores, example.answers)) if is_choice(example) else math.nan
    return gold_probability(scores, example), accuracy


def _bootstrap(setting: Setting, options: Options, calls: PaidCalls) -> tuple[list[str], int]:
    """Members of the pool that the model answers rightly after random others, and the number that was tried."""
    tried = list(setting.pool.in_random_order(StreamKey(options.seed, "bootstrap"), "pool"))
    tried = tried[: options.budget // BOOTSTRAP_SHARE]
    right = rate(calls, setting.cells({"name": "random"}), tried, setting.pool)[0, :, 1] if tried else np.zeros(0)
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


# A set of demonstrations for other programs: chat messages of any API, and the state of a DSPy program.


MARKS = ("<<CUSTOM-TYPE-START-IDENTIFIER>>", "<<CUSTOM-TYPE-END-IDENTIFIER>>")
"""What DSPy writes around the content of an image."""


def chat_messages(result: Optimized) -> list[dict[str, Any]]:
    """The demonstrations as the study's composer writes them, before a query. The query's own message follows.

    A composer that writes everything into one turn ends with a message to which the query's content is added.
    """
    prompt = result.cell.composer.compose(_context(result))
    return messages(prompt.map(lambda part: None if spans.is_query(part.name) else part))


def dspy_state(result: Optimized) -> dict[str, Any]:
    """The state of `dspy.Predict("images: list[dspy.Image], question -> answer")`, for its method `load`.

    Images are strings, as DSPy stores them: its adapters turn what stands between the two marks into message content.

    Raises:
        DataError: A text has a mark, and could so add content of its own to the messages.
    """
    examples = [demo.example for demo in _context(result).demos]
    for example in examples:
        if mark := next((mark for mark in MARKS if mark in example.question + example.answer), None):
            raise DataError(
                f"demonstration '{example.id}': its text contains '{mark}', which DSPy reads as the border of an "
                "image. Remove it from the data, or the demonstration from the pool."
            )
    demos = [
        {
            "images": [
                json.dumps([{"type": "image_url", "image_url": {"url": data_url(image)}}]).join(MARKS)
                for image in example.images
            ],
            "question": example.question,
            "answer": example.answer,
        }
        for example in examples
    ]
    names = ("images", "question", "answer")
    task = "Given the fields `images`, `question`, produce the fields `answer`."
    instruction = result.setting.instruction(result.choice.demos)
    return {
        "traces": [],
        "train": [],
        "demos": demos,
        "signature": {
            "instructions": instruction or task,
            "fields": [{"prefix": f"{name.title()}:", "description": f"${{{name}}}"} for name in names],
        },
        "lm": None,
        "metadata": {"dependency_versions": {}},
    }


def _context(result: Optimized) -> Any:
    """The context of the first held-out query with the set."""
    setting, ranking = result.setting, [RetrievedExample(name) for name in result.choice.demos]
    cell = setting.cell
    return arrange(setting.test[0], ranking, setting.pool, cell.seed, order=cell.order, transforms=cell.transforms)
