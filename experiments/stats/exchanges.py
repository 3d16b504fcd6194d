"""Two arms under a run-level metric such as F1: the test of their difference, and its interval.

Each sample is a row of k numbers, and the statistic is a function of the sum of the rows: F1 reads sums of
(2 x true positives, predicted + gold positives). `icl.metrics.run_level` has the rows of each metric.

One of the two arms is the reference; "the arm" is the other. An exchange swaps their names in some clusters. If the
arms do not differ, the new difference D' is as likely as the observed difference D. Only sums change: an exchanged
cluster moves its sums to the other arm. So thousands of exchanges are one product of matrices.

    1  pair      `align_run_statistics`   the cells of both arms (same seed and setting) on the samples that count in
                                          both: a sample that failed in one arm counts as failed in the other
    2  sum       `build_strata`           one row of sums per cluster, arm and pair of cells
    3  exchange  `exchanged_differences`  D' for each choice of clusters
    4  count     `randomization_test`     p is the share of exchanges with |D'| >= |D| (Fisher 1935; for F1: Yeh 2000).
                                          It is exact if the arms do not differ.

The interval has each difference m that the same exchanges do not reject as the true difference. Let an exchange move a
share q of the pairs. If m is true, the moved pairs have -m and the others m, so D' is m (1 - 2 q) on average. The
exchange is as extreme as the data if it is as far from its average as the data are from theirs:
|D' - m (1 - 2 q)| >= |D - m|. That holds for all m between (D - D') / (2 q) and (D + D') / (2 (1 - q)).

    example      D = .10, and an exchange of half of the pairs gives D' = -.02: as extreme for m from .08 to .12. With
                 thousands of exchanges, the .95 interval has the m for which more than 5 % of them are as extreme.

For a mean, this is the usual sign-flip test of the differences minus m (`sign_flips`). For other statistics it holds to
first order. An interval without width (the arms are equal, or differ equally in all clusters) is widened. If D is 0,
its ends are D with z^2 more clusters that are worst in one arm and best in the other, with z the normal quantile of
the level. Otherwise `interval_of_equal_clusters` gives the ends, and the one farther from 0 reaches at least as far as
D with these added clusters.

While a run grows, `differences_at_look` makes the same exchanges at every look.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import Codes, Floats, cluster_codes, normal_quantile
from experiments.stats.run_level_frames import Indices, RunLevelScores
from experiments.stats.run_statistics import NO_SPREAD, OVERWHELMING, informative_per_cluster
from experiments.stats.sign_flips import (
    MAX_ENTRIES,
    SAMPLED_SUBSETS,
    TwoSidedTest,
    enclosed_means,
    exactly_summable,
    interval_of_equal_clusters,
    invert_flips,
    subsets,
)
from icl import ConfigError, RunStatistic, ScoredSample, StreamKey, scipy
from icl.metrics.run_level import RunLevelMetric, sum_rows

ROUNDING = 1e-12
"""A difference below this is rounding."""
MANY_SUMS = 64
"""A statistic of more sums than this (ROC AUC) is exchanged less often."""
FEWER_EXCHANGES = 2_000
PIECE_BYTES = 250
"""Bytes of exchange patterns, per cluster, that are unpacked at once, to limit memory."""
PairedCells = Sequence[tuple[Indices, RunStatistic, RunStatistic]]
"""Of each pair of cells: the places of its pairs, the statistic of the reference, the statistic of the arm."""


def align_run_statistics(
    reference: RunLevelScores, arm: RunLevelScores, pairs: tuple[Indices, Indices]
) -> tuple[Floats, Floats, PairedCells]:
    """Step 1: the statistics of two arms on the samples that count in both.

    Args:
        reference: The metric and the samples of the reference arm.
        arm: Those of the other arm.
        pairs: [n] numbers of the reference's samples, and [n] numbers of the arm's, pair by pair.

    Returns:
        [n] the numbers of either arm (`RunStatistic.numbers`), NaN where a pair does not count. Then the pairs of
        cells.

    Raises:
        ConfigError: If the arms have different metrics.
    """
    numbers = np.full((2, len(pairs[0])), np.nan)
    cells: list[tuple[Indices, RunStatistic, RunStatistic]] = []
    both = np.stack([reference.cells[pairs[0]], arm.cells[pairs[1]]])
    for own in np.unique(both, axis=1).T:
        places = np.flatnonzero((both == own[:, None]).all(axis=0))
        left, right = reference.statistic_of(pairs[0][places]), arm.statistic_of(pairs[1][places])
        counted = left.counted & right.counted
        if counted.any() and not counted.all():  # failures may affect other samples, such as those of a group
            common = places[counted]
            left, right = reference.statistic_of(pairs[0][common]), arm.statistic_of(pairs[1][common])
            places, counted = common, left.counted & right.counted
        numbers[:, places] = np.where(counted, [left.numbers(), right.numbers()], np.nan)
        counted &= np.isfinite(numbers[:, places]).all(axis=0)
        numbers[:, places[~counted]] = np.nan
        names = {
            type(scores.metric).__qualname__ for scores in (reference, arm)
        }  # not the classes: a class of a user's file is a new object in each run
        if len(names) > 1 or left.rows.shape != right.rows.shape:
            raise ConfigError(f"the arms are scored by different metrics: {', '.join(sorted(names))}.")
        if counted.any():
            chosen = np.flatnonzero(counted)
            cells.append((places[chosen], left.select(chosen), right.select(chosen)))
    return numbers[0], numbers[1], cells


@dataclass(frozen=True, eq=False)
class Stratum:
    """A pair of cells, one of each arm, on the same samples: for each cluster the sum of its rows in either arm.

    Attributes:
        reference: [C, k], the sums in the reference arm.
        arm: [C, k], the sums in the other arm.
        value: Maps a sum over clusters, [..., k], to the statistic, [...].
        weight: The share of all pairs that lies in these cells.
        worst: [k], the sums of a cluster of worst samples.
        best: [k], the sums of a cluster of best samples.
        is_identical: Whether no sample differs.
    """

    reference: Any
    arm: Any
    value: Callable[[Floats], Floats]
    weight: float
    worst: Floats
    best: Floats
    is_identical: bool


def build_strata(cells: PairedCells, codes: Codes) -> list[Stratum]:
    """Step 2: the sums per cluster of each pair of cells. codes: [n], the cluster of each pair, in 0..C-1."""
    total, count = sum(len(places) for places, _, _ in cells), int(codes.max()) + 1
    # A sample counts if it can move either arm. An added cluster has the average number of such samples.
    moving = [(codes[places], reference.informative | arm.informative) for places, reference, arm in cells]
    strata = []
    for (places, reference, arm), size in zip(cells, informative_per_cluster(moving), strict=True):
        left, right = (_sum_by_cluster(side.rows, codes[places], count) for side in (reference, arm))
        if isinstance(left, np.ndarray):  # sparse sums are counts, which are exact
            left, right = np.split(exactly_summable(np.concatenate([left, right]), 2 * count), 2)
        worst, best = _larger(reference.worst, arm.worst), _larger(reference.best, arm.best)
        same = abs(reference.rows - arm.rows).sum() <= ROUNDING
        strata.append(Stratum(left, right, reference.value, len(places) / total, size * worst, size * best, bool(same)))
    return strata


def exchanged_differences(strata: Sequence[Stratum], exchanged: Floats, clusters: Any = slice(None)) -> Floats:
    """Step 3: [E] differences D' of two arms, arm minus reference, after exchanging some clusters.

    Args:
        strata: The cells of both arms, from `build_strata`.
        exchanged: [E, C], one row per exchange: 1 for a cluster that is exchanged. Zeros give D.
        clusters: The clusters that the columns stand for, by default all.
    """
    differences = np.zeros(len(exchanged))
    for stratum in strata:
        # What the exchanged clusters add to the reference's sums, and take from the arm's.
        moved = np.asarray(exchanged @ (stratum.arm - stratum.reference)[clusters])
        reference, arm = sum_rows(stratum.reference), sum_rows(stratum.arm)
        differences += stratum.weight * (stratum.value(arm - moved) - stratum.value(reference + moved))
    return differences


def randomization_test(
    strata: Sequence[Stratum], sizes: Floats, level: float = 0.95, num_exchanges: int = SAMPLED_SUBSETS
) -> TwoSidedTest:
    """Step 4: p and the interval of the difference of two arms. The interval leaves out 0 exactly if p <= 1 - level.

    Args:
        strata: The cells of both arms, from `build_strata`.
        sizes: [C], the number of pairs in each cluster.
        level: The confidence level.
        num_exchanges: The number of random exchanges, if there are too many to use all of them.
    """
    deltas = [abs(stratum.arm - stratum.reference).sum(axis=1) for stratum in strata]
    differs = np.sum([np.asarray(delta).ravel() for delta in deltas], axis=0) > 0
    none_exchanged = np.zeros((1, int(differs.sum())))
    observed = float(exchanged_differences(strata, none_exchanged, np.flatnonzero(differs))[0])
    ends = _extremes_of_difference(strata, OVERWHELMING)
    lowest, highest = min(ends[0], -abs(observed)), max(ends[1], abs(observed))
    enclosed = []
    for difference, num_moved in _exchanges(strata, sizes, differs, num_exchanges):
        numerators = np.stack([observed - difference, observed + difference])
        numerators[np.abs(numerators) <= ROUNDING] = 0.0
        denominators = 2 * np.stack([num_moved, sizes.sum() - num_moved]) / sizes.sum()  # 2 q and 2 (1 - q)
        enclosed.append(enclosed_means(numerators, denominators, lowest, highest))
    result = invert_flips(np.concatenate(enclosed, axis=1), level, lowest, highest)
    if result.high - result.low >= NO_SPREAD:
        return result
    ends = _extremes_of_difference(strata, normal_quantile(0.5 + level / 2) ** 2)
    if abs(observed) <= ROUNDING:
        return TwoSidedTest(result.p, *ends)
    low, high = interval_of_equal_clusters(observed, int(differs.sum()), result.p, level, (lowest, highest))
    low, high = (min(low, ends[0]), high) if observed < 0 else (low, max(high, ends[1]))
    return TwoSidedTest(result.p, low, high)


def _exchanges(
    strata: Sequence[Stratum], sizes: Floats, differs: NDArray[np.bool_], num_exchanges: int
) -> Iterator[tuple[Floats, Floats]]:
    """([E] differences D', [E] numbers of pairs that change places) of many exchanges, in pieces.

    Clusters without a difference change only the number of pairs. If few clusters differ, each choice of them is
    repeated with several random choices of the others.
    """
    differing, width = np.flatnonzero(differs), max(len(stratum.worst) for stratum in strata)
    num_exchanges = min(num_exchanges, FEWER_EXCHANGES) if width > MANY_SUMS else num_exchanges
    repeats = 1 if differs.all() else ceil(num_exchanges / 2 ** min(len(differing), 30))
    generator = StreamKey(0, "").numpy("clusters without a difference")
    step = max(1, MAX_ENTRIES // width)
    for chosen in subsets(len(differing), num_exchanges):
        for start in range(0, len(chosen), step):
            exchanged = chosen[start : start + step]
            differences = np.tile(exchanged_differences(strata, exchanged, differing), repeats)
            num_moved = np.tile(exchanged @ sizes[differs], repeats)
            num_moved += _random_sums(sizes[~differs], len(num_moved), generator)
            yield differences, num_moved


def differences_at_look(
    metric: RunLevelMetric,
    cells: Sequence[tuple[Sequence[ScoredSample], Sequence[ScoredSample]]],
    clusters: Sequence[str],
    num_patterns: int,
    seed: int,
) -> Floats:
    """The differences D' of two arms under random exchanges that stay the same while the arms grow.

    Args:
        metric: The run-level metric.
        cells: For each seed, the samples of the reference and the samples of the arm, query by query.
        clusters: The id of the cluster of each query. A cluster's exchanges depend on its id alone, so they are the
            same at every look.
        num_patterns: The number of patterns. The first exchanges nothing, so it gives the data.
        seed: Of the exchanges.

    Returns:
        [num_patterns] differences of the statistic; the first is the difference of the data. NaN for an exchange under
        which the statistic is undefined. Seeds for which it is undefined on the shared samples are left out. If none is
        left, all are 0: then no test rejects.
    """
    names, codes = list(dict.fromkeys(clusters)), cluster_codes(np.asarray(clusters, dtype=object))
    sample_indices, seeds = np.arange(len(cells) * len(codes)), np.repeat(np.arange(len(cells)), len(codes))
    sides = [RunLevelScores(metric, [s for cell in cells for s in cell[side]], seeds) for side in (0, 1)]
    *_, paired = align_run_statistics(sides[0], sides[1], (sample_indices, sample_indices))
    strata = build_strata(paired, np.tile(codes, len(cells))) if paired else []
    patterns = np.stack([_pattern(name, num_patterns, seed) for name in names])
    differences = []
    for start in range(0, num_patterns, 8 * PIECE_BYTES):
        bits = np.unpackbits(patterns[:, start // 8 : start // 8 + PIECE_BYTES], axis=1)[:, : num_patterns - start]
        differences.append(exchanged_differences(strata, bits.T.astype(np.float64)))
    return np.concatenate(differences)


def _pattern(cluster: str, num_patterns: int, seed: int) -> NDArray[np.uint8]:
    """`num_patterns` random bits, packed in bytes. The first bit, the data, is 0."""
    bits = StreamKey(seed, cluster).numpy("exchange").integers(0, 256, (num_patterns + 7) // 8, dtype=np.uint8)
    bits[0] &= 0x7F
    return bits


def _extremes_of_difference(strata: Sequence[Stratum], added: float) -> tuple[float, float]:
    """The differences with `added` more clusters that are worst in one arm and best in the other."""

    def difference(one: Stratum, arm: Floats, reference: Floats) -> float:
        sums = sum_rows(one.arm) + added * arm, sum_rows(one.reference) + added * reference
        return one.weight * float(one.value(sums[0]) - one.value(sums[1]))

    ends = [sum(difference(s, s.worst, s.best) for s in strata), sum(difference(s, s.best, s.worst) for s in strata)]
    return min(ends), max(ends)


def _larger(reference: Floats, arm: Floats) -> Floats:
    """Either arm's worst (or best) row: the one that adds more, which gives the wider interval.

    Both arms use it, since an interval end adds worst rows to one arm and best rows to the other. Worst and best are
    chosen separately, so they may come from different arms.
    """
    return max(reference, arm, key=lambda row: float(np.abs(row).sum()))


def _sum_by_cluster(rows: Any, codes: Codes, count: int) -> Any:
    return (
        scipy.sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(count, len(codes))) @ rows
    )


def _random_sums(values: Floats, rows: int, generator: np.random.Generator) -> Floats:
    """[rows] sums of random subsets of the values."""
    step = max(1, MAX_ENTRIES // max(1, len(values)))
    parts = [(generator.random((min(step, rows - i), len(values))) < 0.5) @ values for i in range(0, rows, step)]
    return np.concatenate(parts)
