"""Searches for one set of demonstrations that suits all queries, each with a number of model calls at which it stops.

    race        random sets; all on 8 queries, the better half on 16, ... until the last ones have seen all queries
                (successive halving; TRIPLE, 2402.09723)
    random      random sets, each on all queries: the control of the others, at as many calls
    greedy      k times: the candidate that is best behind the chosen ones, of calls / (k queries) random candidates
    exchange    a random set, in which one place is exchanged at a time for a random candidate, if that is better

A search sees scores alone, so it runs the same on permuted scores, which say what it finds in noise. A set is a tuple
of ids in the order of the prompt; its order is a part of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.stats import Floats
from icl import ConfigError, StreamKey

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
