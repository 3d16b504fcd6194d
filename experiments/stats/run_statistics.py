"""Run-level metrics (F1, ROC AUC, CIDEr), which have one value per cell: intervals, pairs and tests by recomputation.

A cell is one setting under one seed. A metric's `run_level` maps the samples of a cell to a `RunStatistic`
(`icl.metrics.run_level`), which gives the statistic of any choice of them. The statistic of several cells (seeds,
pooled settings) is the mean of their statistics, weighted by their numbers of samples.

    frame       The column of the metric has one number per sample, and their mean in a cell is the statistic: scores,
                if it is a mean of scores (CIDEr), else jackknife pseudo-values, from the statistic without each sample.
                The column SAMPLE numbers the samples, and `frame.attrs[RUN_LEVEL]` has its `RunLevelScores`: what
                the metric reads of each sample.
    one arm     `estimate_run_statistic`: V is the variance of these numbers over clusters. Proportions (F1, AUC,
                groups) have Wilson's interval at the effective sample size T (1 - T) / V, with V the variance over
                clusters (`intervals`; Dean and Pagano 2015). For F1, as F goes to 0 or 1, it approaches Wilson on the
                Jaccard index F / (2 - F), mapped back to F, which is a proportion (Lam, Gopal and Qian 2023). Other
                statistics have t standard errors on either side.
    two arms    `align_run_statistics` forms the pairs first: a sample that failed in one arm counts as failed in both,
                and both statistics are computed again. `randomization_test` exchanges the arms within clusters (Fisher
                1935; for F1: Yeh 2000). p is the share of exchanges with a difference as large as the observed one, D.
                It is exact under the null that exchanging changes nothing. The interval holds the differences m that
                the same exchanges do not reject. D' is the difference after an exchange that moves a share q of the
                pairs to the other arm. If the true difference were m, D' would be m (1 - 2 q) on average and D would
                be m, so the exchange is as extreme as the data if |D' - m (1 - 2 q)| >= |D - m|. For a mean these are
                the sign flips of the differences minus m (`sign_flips`); for other statistics this holds to first
                order.
    no spread   If no exchange, or no sample, changes anything, the interval ends at the statistic with z^2 more
                clusters of the worst, or the best, samples, with z the normal quantile of the level. For a proportion
                of 0 or 1 this is Wilson.
    looks       `differences_at_look` gives the differences under exchanges that stay the same while a run grows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats.intervals import (
    Codes,
    Estimate,
    Floats,
    cluster_codes,
    cluster_sums,
    interval_of_mean,
    mean_variance,
    normal_quantile,
)
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
from icl import ConfigError, DataFrame, RunStatistic, ScoredSample, StreamKey
from icl.metrics.run_level import RunLevelMetric, run_statistic, sum_rows

Indices = NDArray[np.intp]

RUN_LEVEL = "run_level"
"""The key of a frame's `attrs` with its `RunLevelColumns`."""
SAMPLE = "sample:number"
"""The column of a frame with the number of each sample in its `RunLevelScores`. No data have such a column."""
NO_SPREAD = 1e-9
"""A standard deviation, or the width of an interval, below this counts as zero."""
OVERWHELMING = 1e9
"""So many added clusters that the data no longer matter: the statistic is that of the added ones."""
ROUNDING = 1e-12
"""A difference below this is rounding."""
MANY_SUMS = 64
"""A statistic of more sums than this (ROC AUC) is exchanged less often."""
FEWER_EXCHANGES = 2_000
PIECE_BYTES = 250
"""Bytes of one piece of exchange patterns, so that memory does not grow with their number."""


class SharedAttrs(dict[str, Any]):
    """A mapping for a frame's `attrs` that is not copied: pandas deep-copies `attrs` in every operation."""

    def __deepcopy__(self, memo: Any) -> "SharedAttrs":
        return self


@dataclass(frozen=True, eq=False)
class RunLevelScores:
    """What a run-level metric reads: the samples of a run.

    Attributes:
        metric: The metric.
        samples: [N], the samples.
        cells: [N], the number of each sample's cell; -1 for a sample that is left out.
    """

    metric: RunLevelMetric
    samples: Sequence[ScoredSample]
    cells: Codes
    _cache: dict[int, RunStatistic] = field(default_factory=dict, init=False, repr=False)

    def numbers(self) -> Floats:
        """[N] numbers that average to the statistic of each cell; NaN for a sample without a part in it."""
        numbers = np.full(len(self.samples), np.nan)
        for cell, members in self._members.items():
            if cell >= 0:
                numbers[members] = self._whole(cell).numbers()
        return numbers

    def statistic_of(self, sample_numbers: Indices) -> RunStatistic:
        """The statistic of some samples of one cell. The cell's other samples count as failed."""
        cell = int(self.cells[sample_numbers[0]])
        members = self._members[cell]
        samples = [self.samples[i] for i in members]
        lost = [i for i in np.flatnonzero(~np.isin(members, sample_numbers)) if samples[i].score is not None]
        for i in lost:
            samples[i] = replace(samples[i], score=None)
        statistic = self._statistic(samples) if lost else self._whole(cell)
        return statistic.select(np.searchsorted(members, sample_numbers))

    def without(self, sample_numbers: Iterable[int]) -> "RunLevelScores":
        """The scores as if these samples had failed."""
        samples = list(self.samples)
        for i in sample_numbers:
            samples[i] = replace(samples[i], score=None)
        return RunLevelScores(self.metric, samples, self.cells)

    @cached_property
    def _members(self) -> dict[int, Indices]:
        return {int(cell): np.flatnonzero(self.cells == cell) for cell in np.unique(self.cells)}

    def _whole(self, cell: int) -> RunStatistic:
        if cell not in self._cache:
            self._cache[cell] = self._statistic([self.samples[i] for i in self._members[cell]])
        return self._cache[cell]

    def _statistic(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        statistic = run_statistic(self.metric.run_level(samples))
        if (count := len(statistic.counted)) != len(samples):
            raise ConfigError(f"{type(self.metric).__name__} gives {count} numbers for {len(samples)} samples.")
        return statistic


class RunLevelColumns(list[str]):
    """The names of a frame's run-level columns with their scores, which are not written when a frame is saved."""

    def __init__(self, scores: Mapping[str, RunLevelScores]) -> None:
        super().__init__(scores)
        self.scores = dict(scores)

    def __deepcopy__(self, memo: Any) -> "RunLevelColumns":
        return self

    def __eq__(self, other: object) -> bool:
        return self is other  # frames of two runs must not be joined as if they had one list of samples

    __hash__ = None


@dataclass(frozen=True, eq=False)
class Stratum:
    """A pair of cells, one of each arm, on the same samples: the sums of their rows per cluster.

    Attributes:
        reference: [C, k], the sums of the reference arm.
        arm: [C, k], the sums of the other arm.
        value: Maps sums to the statistic.
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


PairedCells = Sequence[tuple[Indices, RunStatistic, RunStatistic]]
"""Of each pair of cells: the places of its pairs, the statistic of the reference, the statistic of the arm."""


# frames


def add_run_level(frame: DataFrame, columns: Mapping[str, RunLevelScores]) -> DataFrame:
    """The frame, which has SAMPLE, with these run-level columns."""
    changed = frame.assign(**{name: scores.numbers()[frame[SAMPLE]] for name, scores in columns.items()})
    if columns:
        before = frame.attrs.get(RUN_LEVEL)
        scores = before.scores if isinstance(before, RunLevelColumns) else {}
        changed.attrs[RUN_LEVEL] = RunLevelColumns({**scores, **columns})
    return changed


def copy_scores(frame: DataFrame, names: Mapping[str, str]) -> DataFrame:
    """The frame with columns of scores under further names: new name -> column."""
    run_level = run_level_columns(frame)
    copied = frame.assign(**{new: frame[old] for new, old in names.items()})
    changed = {new: run_level[old] for new, old in names.items() if old in run_level}
    if run_level:
        copied.attrs[RUN_LEVEL] = RunLevelColumns({**run_level, **changed})
    return copied


def run_level_columns(frame: DataFrame) -> Mapping[str, RunLevelScores]:
    """The run-level columns of a frame."""
    columns = frame.attrs.get(RUN_LEVEL)
    if not isinstance(columns, RunLevelColumns):
        if SAMPLE in frame:
            raise ValueError(f"the frame has lost its attrs, which say what the samples of column '{SAMPLE}' are.")
        return {}
    return {name: scores for name, scores in columns.scores.items() if name in frame}


def is_run_level(frame: DataFrame, column: str) -> bool:
    """Whether a column has a run-level metric; its numbers are not scores of samples."""
    return column in run_level_columns(frame)


def drop_scores(frame: DataFrame, lost: NDArray[np.bool_], columns: Sequence[str]) -> DataFrame:
    """The frame as if some of its samples had failed: they have no score, and run-level metrics leave them out.

    Args:
        frame: Samples.
        lost: [n], which of them have failed.
        columns: The columns of scores.
    """
    run_level = run_level_columns(frame)
    masked = frame.assign(**{column: frame[column].mask(lost) for column in columns})
    changed = {name: run_level[name].without(frame[SAMPLE][lost]) for name in columns if name in run_level}
    return add_run_level(masked, changed)


def within_parts(frame: DataFrame, parts: Codes) -> dict[str, RunLevelScores]:
    """The run-level columns of a frame, computed within parts of their cells. parts: [n], the part of each sample."""
    changed = {}
    for name, scores in run_level_columns(frame).items():
        cells = np.full(len(scores.samples), -1)
        both = np.stack([scores.cells[frame[SAMPLE]], parts], axis=1)
        cells[frame[SAMPLE]] = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        changed[name] = RunLevelScores(scores.metric, scores.samples, cells)
    return changed


# one arm


def cells_of_rows(scores: RunLevelScores, sample_numbers: Indices) -> Iterator[tuple[Indices, RunStatistic]]:
    """For each cell of an arm: the places of its samples in `sample_numbers`, and its statistic on them."""
    for cell in np.unique(scores.cells[sample_numbers]):
        places = np.flatnonzero(scores.cells[sample_numbers] == cell)
        yield places, scores.statistic_of(sample_numbers[places])


def estimate_run_statistic(
    scores: RunLevelScores, sample_numbers: Indices, clusters: ArrayLike, level: float = 0.95
) -> Estimate:
    """The run-level statistic of an arm with its interval.

    Args:
        scores: The metric and its samples.
        sample_numbers: [n], the samples of the arm that have a part in the statistic.
        clusters: [n], any hashable labels.
        level: The confidence level.
    """
    codes, cells = cluster_codes(clusters), list(cells_of_rows(scores, sample_numbers))
    values = np.empty(len(sample_numbers))
    for places, statistic in cells:
        values[places] = statistic.numbers()
    mean = float(values.mean())
    sums, sizes = cluster_sums(values, codes)
    variance = mean_variance(sums, sizes, float(values.var())) if len(sizes) > 1 else 0.0
    is_proportion = all(statistic.is_proportion for _, statistic in cells)
    if variance**0.5 < NO_SPREAD or (is_proportion and min(mean, 1 - mean) < NO_SPREAD):
        low, high = _extremes_of_arm(cells, codes, normal_quantile(0.5 + level / 2) ** 2)
    else:
        low, high = interval_of_mean(mean, variance, sizes, level, is_share=is_proportion)
        lowest, highest = _extremes_of_arm(cells, codes, OVERWHELMING)
        if lowest <= mean <= highest:  # a metric that does not name its range has the range of a share
            low, high = max(low, lowest), min(high, highest)
    return Estimate(mean, low, high, len(values), len(sizes))


def _extremes_of_arm(
    cells: Sequence[tuple[Indices, RunStatistic]], codes: Codes, clusters: float
) -> tuple[float, float]:
    """The statistic with so many more clusters of the worst samples, and of the best."""
    ends = [0.0, 0.0]
    for places, statistic in cells:
        size = clusters * _informative_per_cluster(statistic.informative, codes[places])
        for i, extreme in enumerate((statistic.worst, statistic.best)):
            ends[i] += float(statistic.value(sum_rows(statistic.rows) + size * extreme)) * len(places) / len(codes)
    return min(ends), max(ends)


def _informative_per_cluster(informative: NDArray[np.bool_], codes: Codes) -> float:
    """The average number of samples that can move the statistic, over the clusters that have any."""
    clusters = len(np.unique(codes[informative]))
    return float(informative.sum()) / clusters if clusters else 1.0


# two arms


def align_run_statistics(
    reference: RunLevelScores, arm: RunLevelScores, pairs: tuple[Indices, Indices]
) -> tuple[Floats, Floats, PairedCells]:
    """The statistics of two arms on the samples that count in both.

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


def build_strata(cells: PairedCells, codes: Codes) -> list[Stratum]:
    """One stratum per pair of cells. codes: [n], the cluster of each pair, in 0..C-1."""
    total, count = sum(len(places) for places, _, _ in cells), int(codes.max()) + 1
    strata = []
    for places, reference, arm in cells:
        # A sample counts if it can move either arm. An added cluster has the average number of such samples.
        size = _informative_per_cluster(reference.informative | arm.informative, codes[places])
        left, right = (_sum_by_cluster(side.rows, codes[places], count) for side in (reference, arm))
        if isinstance(left, np.ndarray):  # sparse sums are counts, which are exact
            left, right = np.split(exactly_summable(np.concatenate([left, right]), 2 * count), 2)
        worst, best = _larger(reference.worst, arm.worst), _larger(reference.best, arm.best)
        same = abs(reference.rows - arm.rows).sum() <= ROUNDING
        strata.append(Stratum(left, right, reference.value, len(places) / total, size * worst, size * best, bool(same)))
    return strata


def randomization_test(
    strata: Sequence[Stratum], sizes: Floats, level: float = 0.95, samples: int = SAMPLED_SUBSETS
) -> TwoSidedTest:
    """The test and the interval of the difference of two arms, which are exchanged within clusters.

    The interval leaves out 0 exactly if p is at most 1 - level.

    Args:
        strata: The cells of both arms, from `build_strata`.
        sizes: [C], the number of pairs in each cluster.
        level: The confidence level.
        samples: The number of random exchanges, if there are too many to use all of them.
    """
    deltas = [stratum.arm - stratum.reference for stratum in strata]
    differs = np.asarray(sum(np.asarray(abs(delta).sum(axis=1)).ravel() for delta in deltas)) > 0
    differing = np.flatnonzero(differs)
    width = max(len(stratum.worst) for stratum in strata)
    samples = min(samples, FEWER_EXCHANGES) if width > MANY_SUMS else samples
    observed = float(exchanged_differences(strata, np.zeros((1, len(differing))), differing)[0])
    ends = _extremes_of_difference(strata, OVERWHELMING)
    lowest, highest = min(ends[0], -abs(observed)), max(ends[1], abs(observed))
    generator, pieces = StreamKey(0, "").numpy("clusters without a difference"), []
    # Clusters without a difference do not change D', but they change q. If few clusters differ, each pattern of these
    # is used with several random patterns of the others.
    repeats = 1 if differs.all() else ceil(samples / 2 ** min(len(differing), 30))
    for chosen in subsets(len(differing), samples):
        for exchanged in np.split(chosen, range(step := max(1, MAX_ENTRIES // width), len(chosen), step)):
            exchanged_difference = exchanged_differences(strata, exchanged, differing)
            moved = np.tile(exchanged @ sizes[differs], repeats)
            moved += _random_sums(sizes[~differs], len(moved), generator)
            # As extreme as D for m from (D - D') / (2 q) to (D + D') / (2 (1 - q)).
            numerators = np.stack([observed - exchanged_difference, observed + exchanged_difference])
            numerators[np.abs(numerators) <= ROUNDING] = 0.0
            denominators = 2 * np.stack([moved, sizes.sum() - moved]) / sizes.sum()
            pieces.append(enclosed_means(np.tile(numerators, repeats), denominators, lowest, highest))
    result = invert_flips(np.concatenate(pieces, axis=1), level, lowest, highest)
    if result.high - result.low >= NO_SPREAD:
        return result
    ends = _extremes_of_difference(strata, normal_quantile(0.5 + level / 2) ** 2)
    if abs(observed) <= ROUNDING:
        return TwoSidedTest(result.p, *ends)
    low, high = interval_of_equal_clusters(observed, len(differing), result.p, level, (lowest, highest))
    low, high = (min(low, ends[0]), high) if observed < 0 else (low, max(high, ends[1]))
    return TwoSidedTest(result.p, low, high)


def exchanged_differences(strata: Sequence[Stratum], exchanged: Floats, clusters: Any = slice(None)) -> Floats:
    """[rows] differences of two arms, arm minus reference, that are exchanged in some clusters.

    Args:
        strata: The cells of both arms, from `build_strata`.
        exchanged: [rows, C] of 0 and 1.
        clusters: The clusters that the columns stand for, by default all.
    """
    differences = np.zeros(len(exchanged))
    for stratum in strata:
        moved = np.asarray(exchanged @ (stratum.arm - stratum.reference)[clusters])
        reference, arm = sum_rows(stratum.reference), sum_rows(stratum.arm)
        differences += stratum.weight * (stratum.value(arm - moved) - stratum.value(reference + moved))
    return differences


def differences_at_look(
    metric: RunLevelMetric,
    cells: Sequence[tuple[Sequence[ScoredSample], Sequence[ScoredSample]]],
    clusters: Sequence[str],
    rows: int,
    seed: int,
) -> Floats:
    """The differences of two arms under random exchanges that stay the same while the arms grow.

    Args:
        metric: The run-level metric.
        cells: For each seed, the samples of the reference and the samples of the arm, query by query.
        clusters: The id of the cluster of each query. A cluster's exchanges depend on its id alone, so they are the
            same at every look.
        rows: The number of exchanges, with the data.
        seed: Of the exchanges.

    Returns:
        [rows] differences of the statistic; the first is the difference of the data. NaN where it is undefined.
    """
    names, codes = list(dict.fromkeys(clusters)), cluster_codes(np.asarray(clusters, dtype=object))
    sample_numbers, seeds = np.arange(len(cells) * len(codes)), np.repeat(np.arange(len(cells)), len(codes))
    sides = [RunLevelScores(metric, [s for cell in cells for s in cell[side]], seeds) for side in (0, 1)]
    *_, paired = align_run_statistics(sides[0], sides[1], (sample_numbers, sample_numbers))
    strata = build_strata(paired, np.tile(codes, len(cells))) if paired else []
    patterns = np.stack([_pattern(name, rows, seed) for name in names])
    differences = []
    for start in range(0, rows, 8 * PIECE_BYTES):
        bits = np.unpackbits(patterns[:, start // 8 : start // 8 + PIECE_BYTES], axis=1)[:, : rows - start]
        differences.append(exchanged_differences(strata, bits.T.astype(np.float64)))
    return np.concatenate(differences)


def _pattern(cluster: str, rows: int, seed: int) -> NDArray[np.uint8]:
    """[ceil(rows / 8)] random bits, one per row. The first, of the data, is 0."""
    bits = StreamKey(seed, cluster).numpy("exchange").integers(0, 256, (rows + 7) // 8, dtype=np.uint8)
    bits[0] &= 0x7F
    return bits


def _extremes_of_difference(strata: Sequence[Stratum], clusters: float) -> tuple[float, float]:
    """The differences with so many more clusters that are worst in one arm and best in the other."""

    def difference(one: Stratum, arm: Floats, reference: Floats) -> float:
        sums = sum_rows(one.arm) + clusters * arm, sum_rows(one.reference) + clusters * reference
        return one.weight * float(one.value(sums[0]) - one.value(sums[1]))

    ends = [sum(difference(s, s.worst, s.best) for s in strata), sum(difference(s, s.best, s.worst) for s in strata)]
    return min(ends), max(ends)


def _larger(reference: Floats, arm: Floats) -> Floats:
    """The worst (or best) row of one of the arms: the row that adds more and so gives the wider interval.

    Both arms get it, since an interval end adds worst rows to one arm and best rows to the other. So the worst and the
    best row of a stratum may come from different arms.
    """
    return max(reference, arm, key=lambda row: float(np.abs(row).sum()))


def _sum_by_cluster(rows: Any, codes: Codes, count: int) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(count, len(codes))) @ rows


def _random_sums(values: Floats, rows: int, generator: np.random.Generator) -> Floats:
    """[rows] sums of random subsets of the values."""
    step = max(1, MAX_ENTRIES // max(1, len(values)))
    parts = [(generator.random((min(step, rows - i), len(values))) < 0.5) @ values for i in range(0, rows, step)]
    return np.concatenate(parts)
