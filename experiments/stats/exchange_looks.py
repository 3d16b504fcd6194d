"""Differences of a run-level metric when the names of the arms are exchanged in random patterns of clusters.

The patterns are drawn once for all planned clusters (`experiments.stopping.rule.ComparisonTest.look_at_run`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.stats.run_statistic_tests import swapped_differences
from experiments.stats.run_statistics import Stratum
from icl.streams import StreamKey

Floats = NDArray[np.float64]

PIECE = 2_000
"""Patterns of one piece, so that memory does not grow with their number."""


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
