"""A Monte Carlo test of a run-level metric at several looks.

The names of the arms are exchanged in random patterns of clusters, drawn once for all planned clusters. Row 0 is the
data. At each look the statistic's difference is computed for all rows on the clusters so far, and the largest absolute
differences among the rows that are alive are removed, ties together, as many as (1 + B) times the spent level allows.
The comparison is decided when row 0 is removed. The test is exact for any B, because the rows are exchangeable
(Hemerik and Goeman 2018). The spent level and the ladder are those of `sequential`.
"""

from collections.abc import Sequence
from math import ceil, inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.run_statistic_tests import swapped_differences
from experiments.stats.run_statistics import Stratum
from icl.streams import StreamKey

Floats = NDArray[np.float64]

MAX_FAMILY = 8
"""The largest family whose run-level comparisons may end early: larger ones need too many patterns."""
ROWS_PER_LEVEL = 200
PIECE = 2_000
"""Patterns of one piece, so that memory does not grow with their number."""
ROUNDING = 1e-12


def num_patterns(family: int, level: float) -> int:
    """B + 1 >= 200 m / alpha: the number of rows, with the data."""
    return ceil(ROWS_PER_LEVEL * family / level)


class ExchangeLooks:
    """The rows that are alive at each level of a ladder.

    Args:
        levels: [L], ascending.
        rho: The power of t in the spent level.
        rows: 1 + B.
    """

    def __init__(self, levels: ArrayLike, rho: float, rows: int) -> None:
        self.levels, self.rho = np.asarray(levels, dtype=np.float64), rho
        self.alive = np.ones((len(self.levels), rows), dtype=bool)

    def look(self, differences: Floats, time: float) -> float:
        """Removes the extremes at a look.

        Args:
            differences: [1 + B], the data first. An undefined difference counts as extreme.
            time: The share of the planned clusters.

        Returns:
            The least level that has removed the data, else 1.
        """
        size = np.where(np.isnan(differences), inf, np.abs(np.round(differences / ROUNDING) * ROUNDING))
        level = removed = 0.0
        bound = inf
        for i, this in enumerate(self.levels):
            budget = removed + len(size) * (this - level) * time**self.rho - np.count_nonzero(~self.alive[i])
            values, counts = np.unique(size[self.alive[i]], return_counts=True)
            allowed = np.flatnonzero(np.cumsum(counts[::-1])[::-1] <= budget + ROUNDING)
            bound = min(bound, float(values[allowed[0]]) if len(allowed) else inf)
            self.alive[i] &= ~(size >= bound)
            level, removed = float(this), float(np.count_nonzero(~self.alive[i]))
        gone = np.flatnonzero(~self.alive[:, 0])
        return float(self.levels[gone[0]]) if len(gone) else 1.0


def exchange_differences(strata: Sequence[Stratum], clusters: Sequence[str], rows: int, seed: int) -> Floats:
    """[rows] differences of the statistic under the exchange patterns; the first is that of the data.

    Args:
        strata: The cells of both arms on the clusters so far, from `build_strata`.
        clusters: The ids of the clusters, in the order of the strata's rows. A cluster's pattern depends on its id
            alone, so it is the same at every look.
        rows: 1 + B.
        seed: Of the patterns.
    """
    packed = np.stack([_pattern(cluster, rows, seed) for cluster in clusters])
    pieces = []
    for start in range(0, rows, PIECE):
        stop = min(rows, start + PIECE)
        bits = np.unpackbits(packed[:, start // 8 : (stop + 7) // 8], axis=1)[:, : stop - start]
        pieces.append(swapped_differences(strata, bits.T.astype(np.float64)))
    return np.concatenate(pieces)


def _pattern(cluster: str, rows: int, seed: int) -> NDArray[np.uint8]:
    """[ceil(rows / 8)] random bits, one per row. The first, of the data, is 0."""
    bits = StreamKey(seed, cluster).numpy("exchange").integers(0, 256, (rows + 7) // 8, dtype=np.uint8)
    bits[0] &= 0x7F
    return bits
