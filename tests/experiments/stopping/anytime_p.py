"""The p-values of a sign walk by its boundaries, which the looks of a run compute step by step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments.stopping.sequential import Floats, boundaries


def anytime_p(sums: ArrayLike, looks: Sequence[int], planned: int, levels: ArrayLike, rho: float = 2.0) -> Floats:
    """The p-value at each look that is valid at any stopping time: the least level that has rejected so far, else 1.

    Args:
        sums: [n] whole s_i of the clusters in their order.
        looks: [K] numbers of clusters, ascending, at most n.
        planned: The number C of planned clusters.
        levels: [L], ascending (`ladder`).
        rho: The power of t in the spent level.

    Returns:
        [K], never rising.
    """
    whole = np.asarray(sums, dtype=np.int64)
    totals = np.array([abs(int(whole[:n].sum())) for n in looks], dtype=np.float64)
    passed = totals[:, None] >= boundaries(whole, looks, planned, levels, rho)
    rejected = np.maximum.accumulate(passed, axis=0)
    first = rejected.argmax(axis=1)
    return np.where(rejected.any(axis=1), np.asarray(levels, dtype=np.float64)[first], 1.0)
