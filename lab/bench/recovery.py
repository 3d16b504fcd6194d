"""The interval of a recovery: its coverage and median width, and how often a gain is too uncertain for one.

A design is the accuracies at 0 shots, with demonstrations and with the vector. Half of the queries are as hard for all
three.
"""

import numpy as np
from numpy.typing import NDArray

from experiments.analyses.recovery import recovery
from lab.bench import Row, rounds
from lab.simulation.designs import SAME_AS_CLUSTER

DESIGNS = {"strong": (0.35, 1.0, 0.9), "weak": (0.7, 1.0, 0.9), "noise": (0.5, 0.55, 0.525)}
CLUSTERS = (40, 100)
TIMES = 100
"""Number of simulated runs in each of ROUNDS rounds."""
ROUNDS = 10

Floats = NDArray[np.float64]


def rows() -> list[Row]:
    """A row a design and number of clusters."""
    table: list[Row] = []
    for name, accuracies in DESIGNS.items():
        for count in CLUSTERS:
            coverage, width, without = measure(accuracies, count, TIMES * rounds(ROUNDS))
            what = f"recovery of the design {name} at {count} clusters: coverage, width, without one"
            table.append((what, f"{coverage:.3f}, {width:.3f}, {without:.3f}", "coverage >= .93"))
    return table


def measure(accuracies: tuple[float, float, float], count: int, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Coverage and median width of the intervals, and the share of runs without one."""
    draw, (before, after, steered) = np.random.default_rng([seed, count]), accuracies
    true = (steered - before) / (after - before)
    results = [recovery(*draw_scores(draw, accuracies, count), np.arange(count)) for _ in range(runs)]
    ends = np.array([(one["low"], one["high"]) for one in results if one["low"] <= one["high"]]).reshape(-1, 2)
    covered = (ends[:, 0] <= true) & (true <= ends[:, 1])
    return float(covered.mean()), float(np.median(ends[:, 1] - ends[:, 0])), 1 - len(ends) / runs


def draw_scores(
    draw: np.random.Generator, accuracies: tuple[float, float, float], queries: int
) -> tuple[Floats, Floats, Floats]:
    """[queries] scores of each arm."""
    same_for_all = draw.random((queries, 1)) < SAME_AS_CLUSTER
    place = np.where(same_for_all, draw.random((queries, 1)), draw.random((queries, 3)))
    before, after, steered = (place < accuracies).astype(np.float64).T
    return before, after, steered
