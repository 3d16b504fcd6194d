"""Statistics with few clusters: size and power of paired tests of graded scores, coverage of intervals.

Size is the share of p <= .05 if the true difference is 0. Half of a cluster's samples are equal.

- Symmetric designs: differences of normal scores, of U-shaped scores (beta(.6, .6)), and of scores of which 70 % are
equal.
  The figure is the largest size of the three.
- Skewed designs, where the exchange of names is not exact: nine small gains and one large loss (rare), and an
exponential
  minus its mean.

The interval inverts the test, so its coverage in a symmetric design is 1 - size. Power is measured at 2.8 standard
errors, next to Student's t with C - 1 degrees of freedom on cluster sums. Coverage of one arm's mean uses beta(2, 8)
scores, and scores of which 70 % are 1. Coverage of a right/wrong difference uses pairs of which 30 % differ with mean
.1, or 40 % with mean .3.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import cluster_sums, estimate_mean
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sign_flips import sign_flip_test
from lab.bench import Row, rounds

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
    table: list[Row] = []
    for count in CLUSTERS:
        for what, sizes in (("equal", _equal), ("unequal", _unequal)):
            symmetric = [_share(design, sizes, count) for design in SYMMETRIC]
            skewed = ", ".join(f"{_share(design, sizes, count)[0]:.3f}" for design in SKEWED)
            size = f"{max(one for one, _, _, _ in symmetric):.3f} (t {max(t for _, t, _, _ in symmetric):.3f})"
            table.append((f"size at {count} clusters of {what} sizes, symmetric differences", size, "<= .055"))
            table.append((f"size at {count} clusters of {what} sizes, skewed: rare, exponential", skewed, "-"))
            power = ", ".join(f"{p:.2f} (t {t:.2f})" for _, _, p, t in symmetric)
            table.append((f"power at {count} clusters of {what} sizes: normal, U-shaped, sparse", power, "-"))
        covered = ", ".join(f"{_mean_coverage(true, scores, count):.3f}" for true, scores in SCORES)
        table.append((f"coverage of a graded mean at {count} clusters: beta (2, 8), mostly 1", covered, ".95"))
        difference_coverage = ", ".join(
            f"{_difference_coverage(differ, true, count):.3f}" for differ, true in DIFFERENCES
        )
        table.append(
            (
                f"coverage of a right/wrong difference at {count} clusters: .1 of .3, .3 of .4",
                difference_coverage,
                ".95",
            )
        )
    return table


def _equal(draw: np.random.Generator, count: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(count), 2)


def _unequal(draw: np.random.Generator, count: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(count), draw.geometric(0.25, count))


def _share(
    design: Draw, sizes: Callable[[np.random.Generator, int], NDArray[np.intp]], count: int
) -> tuple[float, float, float, float]:
    """(size, size of t, power, power of t)."""
    draw = np.random.default_rng(count)
    draw_clusters = partial(_draw_clusters, draw, design, sizes, count)
    samples = [draw_clusters() for _ in range(rounds(ROUNDS) * TIMES)]
    spread = float(np.std([sums.sum() / own.sum() for sums, own in samples]))
    p_values = [
        (sign_flip_test(sums + shift * own, own).p, _t(sums + shift * own, own))
        for shift in (0.0, 2.8 * spread)
        for sums, own in samples
    ]
    null, moved = np.array(p_values[: len(samples)]), np.array(p_values[len(samples) :])
    size, power = (null <= LEVEL).mean(axis=0), (moved <= LEVEL).mean(axis=0)
    return float(size[0]), float(size[1]), float(power[0]), float(power[1])


def _draw_clusters(
    draw: np.random.Generator,
    design: Draw,
    sizes: Callable[[np.random.Generator, int], NDArray[np.intp]],
    count: int,
) -> tuple[Floats, Floats]:
    """(sums, sizes) of clusters, half of the samples of each alike."""
    own = sizes(draw, count)
    same_as_cluster = draw.random(len(own)) < 0.5
    return cluster_sums(np.where(same_as_cluster, design(draw, count)[own], design(draw, len(own))), own)


def _t(sums: Floats, sizes: Floats) -> float:
    from scipy.special import stdtr

    count, mean = len(sums), sums.sum() / sizes.sum()
    error = np.sqrt(count / (count - 1) * np.sum((sums - mean * sizes) ** 2)) / sizes.sum()
    return 2 * float(stdtr(count - 1, -abs(mean) / error)) if error > 0 else float(mean == 0)


def _difference_coverage(differ: float, true: float, count: int) -> float:
    draw, hit = np.random.default_rng(count), 0
    times = rounds(ROUNDS) * TIMES
    for _ in range(times):
        above, below = draw.random(count) < (differ + true) / 2, draw.random(count)
        differences = np.where(above, 1.0, np.where(below < (differ - true) / (2 - differ - true), -1.0, 0.0))
        estimate_ = paired_test(
            Pairs((differences < 0).astype(float), (differences > 0).astype(float), np.arange(count))
        )
        hit += estimate_.low <= true <= estimate_.high
    return hit / times


def _mean_coverage(true: float, scores: Draw, count: int) -> float:
    draw, hit = np.random.default_rng(count), 0
    times = rounds(ROUNDS) * TIMES
    for _ in range(times):
        interval = estimate_mean(scores(draw, count))
        hit += interval.low <= true <= interval.high
    return hit / times
