"""What the statistics of few clusters are worth: size and power of graded paired differences, coverage of intervals.

Size is the share of p <= .05 where the true difference is 0. Symmetric designs: differences of normal, of U-shaped
(beta .6, .6) scores, and of scores that mostly agree (70 % of pairs are equal), half of a cluster's samples alike; the
figure is the largest of the three. Skewed ones, whose names could not be exchanged: nine small gains to one large loss
(rare), and an exponential less its mean. Of a symmetric design the interval covers in 1 - size of the draws, since it
is the test's. Power at 2.8 standard errors, beside Student's t with C - 1 degrees of freedom on cluster sums. Coverage
of one arm's mean: scores of beta (2, 8), and of 70 % ones among uniform ones; of the difference of two right/wrong
arms: 30 % of the pairs differ by .1 in the mean, or 40 % by .3.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments.bench import Row, rounds
from experiments.stats.intervals import cluster_sums, estimate_mean
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sign_flips import sign_flip_p

CLUSTERS = (6, 8, 12, 20, 50)
TIMES = 400
"""Draws of each design a round; ROUNDS of them."""
ROUNDS = 10
LEVEL = 0.05

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
"""(generator, n) -> n differences of mean 0, or n scores."""


def _sparse(draw: np.random.Generator, n: int) -> Floats:
    return np.where(draw.random(n) < 0.7, 0.0, draw.uniform(-1, 1, n))


def _u_shaped(draw: np.random.Generator, n: int) -> Floats:
    return draw.beta(0.6, 0.6, n) - draw.beta(0.6, 0.6, n)


def _rare(draw: np.random.Generator, n: int) -> Floats:
    return np.where(draw.random(n) < 0.9, 0.05, -0.45)


SYMMETRIC: tuple[Draw, ...] = (lambda draw, n: draw.normal(0, 0.2, n), _u_shaped, _sparse)
SKEWED: tuple[Draw, ...] = (_rare, lambda draw, n: draw.exponential(0.2, n) - 0.2)
SCORES: tuple[tuple[float, Draw], ...] = (
    (0.2, lambda draw, n: draw.beta(2, 8, n)),
    (0.85, lambda draw, n: np.where(draw.random(n) < 0.7, 1.0, draw.random(n))),
)
DIFFERENCES = ((0.3, 0.1), (0.4, 0.3))
"""Shares of right/wrong pairs that differ, and their mean difference."""


def rows() -> list[Row]:
    """A row a number of clusters and kind of design."""
    found: list[Row] = []
    for count in CLUSTERS:
        for what, sizes in (("equal", _equal), ("unequal", _unequal)):
            symmetric = [_share(design, sizes, count) for design in SYMMETRIC]
            skewed = ", ".join(f"{_share(design, sizes, count)[0]:.3f}" for design in SKEWED)
            size = f"{max(one for one, _, _, _ in symmetric):.3f} (t {max(t for _, t, _, _ in symmetric):.3f})"
            found.append((f"size at {count} clusters of {what} sizes, symmetric differences", size, "<= .055"))
            found.append((f"size at {count} clusters of {what} sizes, skewed: rare, exponential", skewed, "-"))
            power = ", ".join(f"{p:.2f} (t {t:.2f})" for _, _, p, t in symmetric)
            found.append((f"power at {count} clusters of {what} sizes: normal, U-shaped, sparse", power, "-"))
        covered = ", ".join(f"{_covered(true, scores, count):.3f}" for true, scores in SCORES)
        found.append((f"coverage of a graded mean at {count} clusters: beta (2, 8), mostly 1", covered, ".95"))
        apart = ", ".join(f"{_apart(differ, true, count):.3f}" for differ, true in DIFFERENCES)
        found.append((f"coverage of a right/wrong difference at {count} clusters: .1 of .3, .3 of .4", apart, ".95"))
    return found


def _equal(draw: np.random.Generator, count: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(count), 2)


def _unequal(draw: np.random.Generator, count: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(count), draw.geometric(0.25, count))


def _share(
    design: Draw, sizes: Callable[[np.random.Generator, int], NDArray[np.intp]], count: int
) -> tuple[float, float, float, float]:
    """(size, size of t, power, power of t)."""
    draw = np.random.default_rng(count)
    kept = partial(_drawn, draw, design, sizes, count)
    samples = [kept() for _ in range(rounds(ROUNDS) * TIMES)]
    spread = float(np.std([sums.sum() / own.sum() for sums, own in samples]))
    told = [
        (sign_flip_p(sums + shift * own), _t(sums + shift * own, own))
        for shift in (0.0, 2.8 * spread)
        for sums, own in samples
    ]
    null, moved = np.array(told[: len(samples)]), np.array(told[len(samples) :])
    size, power = (null <= LEVEL).mean(axis=0), (moved <= LEVEL).mean(axis=0)
    return float(size[0]), float(size[1]), float(power[0]), float(power[1])


def _drawn(
    draw: np.random.Generator,
    design: Draw,
    sizes: Callable[[np.random.Generator, int], NDArray[np.intp]],
    count: int,
) -> tuple[Floats, Floats]:
    """(sums, sizes) of clusters, half of the samples of each alike."""
    own = sizes(draw, count)
    alike = draw.random(len(own)) < 0.5
    return cluster_sums(np.where(alike, design(draw, count)[own], design(draw, len(own))), own)


def _t(sums: Floats, sizes: Floats) -> float:
    from scipy.special import stdtr

    count, mean = len(sums), sums.sum() / sizes.sum()
    error = np.sqrt(count / (count - 1) * np.sum((sums - mean * sizes) ** 2)) / sizes.sum()
    return 2 * float(stdtr(count - 1, -abs(mean) / error)) if error > 0 else float(mean == 0)


def _apart(differ: float, true: float, count: int) -> float:
    draw, hit = np.random.default_rng(count), 0
    times = rounds(ROUNDS) * TIMES
    for _ in range(times):
        above, below = draw.random(count) < (differ + true) / 2, draw.random(count)
        seen = np.where(above, 1.0, np.where(below < (differ - true) / (2 - differ - true), -1.0, 0.0))
        found = paired_test(Pairs((seen < 0).astype(float), (seen > 0).astype(float), np.arange(count)))
        hit += found.low <= true <= found.high
    return hit / times


def _covered(true: float, scores: Draw, count: int) -> float:
    draw, hit = np.random.default_rng(count), 0
    times = rounds(ROUNDS) * TIMES
    for _ in range(times):
        found = estimate_mean(scores(draw, count))
        hit += found.low <= true <= found.high
    return hit / times
