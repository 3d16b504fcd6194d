"""Two arms of which one writes prose: how often the estimate from labels covers the truth, and claims a false sign.

The proxy refuses right prose in 60 % and accepts wrong prose in 3 %, so that it sees a difference of equal arms. The
reader leaves the prose of one arm unread, in `prose` of its outputs.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.stats.intervals import Floats
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.settled import Flags, LabeledArm, settle
from lab.simulation.measures import Row

ACCURACY, REDRAWN = 0.6, 0.25
REFUSED, ACCEPTED = 0.6, 0.03


def draw_arms(
    draw: np.random.Generator, queries: int, prose: float, effect: float = 0.0, seeds: int = 1
) -> tuple[LabeledArm, LabeledArm]:
    """A reference whose prose is unread and an arm that is read whole, with all labels."""
    n = queries * seeds
    shared = np.repeat(draw.random(queries) < ACCURACY, seeds)
    a, b = (np.where(draw.random(n) < REDRAWN, draw.random(n) < ACCURACY, shared).astype(float) for _ in range(2))
    b = np.where((b == 0) & (draw.random(n) < effect / (1 - ACCURACY)), 1.0, b)
    unread = draw.random(n) < prose
    accepts = np.where(a == 1, draw.random(n) >= REFUSED, draw.random(n) < ACCEPTED)
    proxy = np.where(unread, accepts, a).astype(float)
    return LabeledArm(np.where(unread, np.nan, a), proxy, a), LabeledArm(b, b, b)


def choose(draw: np.random.Generator, unread: Flags, labels: int, seeds: int = 1) -> Flags:
    """The pairs of the first `labels` queries with an unread output, in a random order."""
    by_query = np.asarray(unread.reshape(-1, seeds).any(axis=1))
    first = draw.permutation(np.flatnonzero(by_query))[:labels]
    return np.repeat(np.isin(np.arange(len(by_query)), first), seeds)


def settling_rows(
    queries: Sequence[int],
    labels: Sequence[int],
    effect: float,
    runs: int,
    seed: int = 0,
    *,
    prose: float = 0.4,
    seeds: int = 1,
) -> Iterator[Row]:
    """The proxy as the truth, and labels of a sample: coverage, width, and claims of a sign, wrong ones among them."""
    for count in queries:
        covered = dict[str, list[tuple[float, float]]]()
        for run in range(runs):
            draw = np.random.default_rng([seed, count, run])
            reference, arm = draw_arms(draw, count, prose, effect, seeds)
            units = np.repeat(np.arange(count), seeds)
            naive = paired_test(Pairs(reference.proxy, arm.proxy, units))
            covered.setdefault("the proxy as the truth", []).append((naive.low, naive.high))
            for number in labels:
                result = settle(reference, arm, choose(draw, reference.unread, number, seeds), units)
                if result is not None:
                    covered.setdefault(f"{number} queries labeled", []).append((result.low, result.high))
        for name, values in covered.items():
            low, high = np.array(values).T
            yield {"queries": count, "by": name, "n": len(values), **_measures(low, high, effect)}


def _measures(low: Floats, high: Floats, effect: float) -> Row:
    claims, sign = (low > 0) | (high < 0), np.sign(low + high)
    return {
        "coverage": float(np.mean((low <= effect) & (effect <= high))),
        "width": float(np.mean(high - low)),
        "claims a sign": float(claims.mean()),
        "a wrong sign": float(np.mean(claims & (sign != np.sign(effect)))),
    }
