"""Searches of sets on simulated scores: budget, gain, and nothing in noise."""

from collections.abc import Sequence

import numpy as np
import pytest

from experiments.running.search_setting import (
    SEARCHES,
    DemoSet,
    Problem,
    draw_sets,
    permuted,
    race_calls,
    race_rounds,
)
from experiments.stats import Floats
from icl.errors import ConfigError

NAMES = [f"demo-{i}" for i in range(20)]


class Simulated:
    """Scores of sets: each member has a value, each pair of set and query an error. Counts calls."""

    def __init__(self, seed: int, error: float = 0.4, values: Sequence[float] | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.values = dict(zip(NAMES, self.rng.normal(0, 0.05, 20) if values is None else values, strict=True))
        self.error = error
        self.calls = 0
        self.scores: list[Floats] = []

    def true(self, demos: DemoSet) -> float:
        return sum(self.values[name] for name in demos)

    def __call__(self, sets: Sequence[DemoSet], queries: range) -> Floats:
        self.calls += len(sets) * len(queries)
        true = np.array([[self.true(demos)] for demos in sets])
        self.scores.append(true + self.rng.normal(0, self.error, (len(sets), len(queries))))
        return self.scores[-1]


def test_a_race_costs_what_was_published() -> None:
    assert race_rounds(80, 64) == [(80, 0, 8), (40, 8, 16), (20, 16, 32), (10, 32, 64)]
    assert race_calls(80, 64) == 1600
    assert race_calls(80, 128) == 1920
    assert race_rounds(3, 5) == [(3, 0, 5)]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("budget", [320, 777, 2000])
def test_a_search_keeps_its_budget_to_the_call(search: str, budget: int) -> None:
    problem, score = Problem(NAMES, 4, 40, budget, 0), Simulated(0)
    choice = SEARCHES[search](problem, score)
    assert choice.calls == score.calls <= budget
    assert len(set(choice.demos)) == 4
    assert SEARCHES[search](problem, Simulated(0)) == choice


@pytest.mark.parametrize("search", SEARCHES)
def test_a_budget_below_the_smallest_search_names_what_it_needs(search: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget: 20 model calls do not rate 2 sets on 40 dev queries, .* takes "):
        SEARCHES[search](Problem(NAMES, 4, 40, 20, 0), Simulated(0))


def test_a_race_has_the_gain_of_all_its_sets_at_a_third_of_the_calls() -> None:
    """80 sets and 64 queries, with errors as on the trial's task: means over 60 searches."""
    gains = {}
    for name, budget in (("race", 1600), ("random", 5120)):
        gain = []
        for seed in range(60):
            score = Simulated(seed)
            choice = SEARCHES[name](Problem(NAMES, 4, 64, budget, seed), score)
            assert choice.sets == 80
            gain.append(score.true(choice.demos) - 4 * np.mean(list(score.values.values())))
        gains[name] = np.mean(gain)
    assert gains["race"] > 0.9 * gains["random"] > 0.1


def test_without_noise_greedy_takes_the_best_and_exchange_never_falls() -> None:
    values = np.linspace(0, 1, 20)
    best = SEARCHES["greedy"](Problem(NAMES, 3, 2, 3 * 20 * 2, 0), Simulated(0, 0.0, values))
    assert best.demos == ("demo-19", "demo-18", "demo-17")
    scores = [
        SEARCHES["exchange"](Problem(NAMES, 3, 2, budget, 0), Simulated(0, 0.0, values)).score
        for budget in (4, 20, 100, 2000)
    ]
    assert scores == sorted(scores)
    assert scores[-1] == pytest.approx(best.score)


def test_sets_are_distinct_orders_and_nested_in_their_number() -> None:
    problem = Problem(NAMES[:3], 2, 1, 10, 0)
    every = draw_sets(problem, 100)
    assert len(set(every)) == len(every) == 6
    assert draw_sets(problem, 4) == every[:4]


@pytest.mark.parametrize("search", SEARCHES)
def test_permuted_scores_give_a_dev_gain_and_no_held_out_gain(search: str) -> None:
    """The mean over 100 seeds of what the search finds is within three standard errors of nothing."""
    dev, held_out = [], []
    for seed in range(100):
        problem, score = Problem(NAMES, 4, 16, 320, seed), Simulated(seed)
        SEARCHES["random"](problem, score)
        (every,) = score.scores
        null = SEARCHES[search](problem, permuted(list(every.T), seed))
        dev.append(null.score - every.mean())
        held_out.append(score.true(null.demos) - 4 * np.mean(list(score.values.values())))
    assert score.calls == 320
    assert np.mean(dev) > 0.1
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / 10
