"""The winner's curse of `icl optimize` on the shipped model: measured and forecast, and what racing saves.

All sets are rated once, on dev queries and on held-out ones. Each draw then takes some of the sets and dev queries. The
curse is the dev gain of the best set minus its held-out gain, both over the mean of these sets.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.config.config import load_config
from experiments.running.optimize import forecast_selection
from experiments.running.optimize import rate as rate_sets
from experiments.running.paid_calls import PaidCalls
from experiments.running.search_setting import SEARCHES, DemoSet, Options, Problem, draw_sets, race_calls, read_setting
from experiments.stats import Floats
from lab.bench import Row, rounds
from lab.bench.learned import TASKS, with_values

SETS = 80
QUERIES = (16, 32, 64)
COUNTS = (8, 16, 40, 80)
ROUNDS = 200
"""Draws of sets and queries for each row."""


def rows(task: str = "misleading half", seed: int = 0) -> list[Row]:
    """A row for each number of dev queries and sets, then one for the race.

    Args:
        task: A name of `learned.TASKS`.
        seed: Of its queries and its pool.
    """
    dev, test = rate(task, seed, 24 if rounds(ROUNDS) == 1 else 192)
    table = []
    for queries in (one for one in QUERIES if one <= dev.shape[1]):
        for count in COUNTS:
            curse, forecast = measure(dev, test, count, queries, rounds(ROUNDS))
            what = f"winner's curse, best of {count} sets on {queries} dev queries: measured, forecast"
            table.append((what, f"{curse:.3f}, {forecast:.3f}", "equal"))
    queries = min(QUERIES[-1], dev.shape[1])
    share, calls = compare_race(dev, test, queries, rounds(ROUNDS))
    what = f"race of {SETS} sets on {queries} dev queries: share of the held-out gain, share of the calls"
    return [*table, (what, f"{share:.2f}, {calls:.2f}", "gain >= .95, calls <= .35")]


def rate(task: str, seed: int, queries: int) -> tuple[Floats, Floats]:
    """Random sets with p_gold on dev and on held-out queries, [sets, queries]."""
    node = with_values(TASKS[task][0], queries=queries, seed=seed)
    config = load_config({"name": "fixed_sets", "model": {"name": "hf", "path": "tiny"}, "shots": 4, "task": node})
    setting = read_setting(config, Options(1, ("of.split=train" if "of" in node else "split=train",)))
    sets = draw_sets(Problem([one.id for one in setting.pool.examples], setting.cell.shots, 1, 1, 0), SETS)
    with tempfile.TemporaryDirectory() as folder:
        calls = PaidCalls(Path(folder) / "calls.jsonl", setting.cell, lambda what, done, of: None)
        cells = [setting.fixed(demos) for demos in sets]
        dev, test = (rate_sets(calls, cells, part, setting.pool)[..., 0] for part in (setting.dev, setting.test))
    return dev, test


def measure(dev: Floats, test: Floats, count: int, queries: int, draws: int) -> tuple[float, float]:
    """(mean curse, mean forecast) over draws of some sets and dev queries."""
    draw, pairs = np.random.default_rng([count, queries]), []
    for _ in range(draws):
        rows_ = draw.permutation(len(dev))[:count]
        scores = dev[np.ix_(rows_, draw.permutation(dev.shape[1])[:queries])]
        best, held_out = int(scores.mean(axis=1).argmax()), test[rows_].mean(axis=1)
        gain = float(scores[best].mean() - scores.mean())
        curse = gain - (held_out[best] - held_out.mean())
        pairs.append((curse, forecast_selection(scores, scores[best], count).curse))
    curse, forecast = np.mean(pairs, axis=0)
    return float(curse), float(forecast)


def compare_race(dev: Floats, test: Floats, queries: int, draws: int) -> tuple[float, float]:
    """The held-out gain of a race, and its calls, as shares of those of rating all sets on all queries."""
    draw, count = np.random.default_rng(queries), len(dev)
    held_out, gains = test.mean(axis=1) - test.mean(), np.zeros(2)
    for number in range(draws):
        problem = Problem([str(i) for i in range(count)], 1, queries, race_calls(count, queries), number)
        scores = dev[:, draw.permutation(dev.shape[1])[:queries]]
        raced = SEARCHES["race"](problem, MatrixScorer(scores))
        gains += held_out[int(raced.demos[0])], held_out[scores.mean(axis=1).argmax()]
    return float(gains[0] / gains[1]), race_calls(count, queries) / (count * queries)


@dataclass(frozen=True)
class MatrixScorer:
    """Scores from a matrix [sets, queries], whose sets are their numbers."""

    scores: Floats

    def __call__(self, sets: Sequence[DemoSet], queries: range) -> Floats:
        return np.asarray(self.scores[np.ix_([int(number) for (number,) in sets], list(queries))])
