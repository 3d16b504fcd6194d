"""The rule of `stop`: which comparisons of a family end at a look, and with which verdict.

    decided  Holm's method on p-values that are valid at any time (`sequential.holm_decided`). The chance of any false
             verdict in the family is at most `level`, whenever the user looks or stops.
    open     The chance of a later verdict fell below `futility`, or all clusters are in. It is never called equal. Its
             p stays, and it may still be decided when others free their level.
    equal    With a `margin`: the interval at level / m lies inside it. Then the test keeps level / m too, so that each
             comparison has one possible false statement. Futility then ends no comparison, since the interval of
             equal arms needs the data.

The result of a comparison is a function of its plan and of the clusters so far: a test that has missed a look takes it
when the clusters are there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf, nan, sqrt
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from experiments import stats  # its modules load at first use: a run without `stop` needs none
from experiments.config.keys import StopSpec
from experiments.stopping.sequential import (
    Floats,
    SignWalk,
    SpentLevel,
    holm_decided,
    ladder,
    lattice,
    look_sizes,
    predictive_power,
    repeated_interval,
    z_boundaries,
    zero_mean_p,
)

End = Literal["running", "decided", "open", "equal"]
NaNFromNull = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]
"""A number that is NaN if a file has null for it."""

DEFAULT_LOOKS = 20
LOOKS_OF_SEVERAL_MODELS = 5
"""Each look loads every model again."""
SEEDS_DIFFERING, GROUP_DIFFERING = 20, 50
"""Clusters that must differ before the first look: for several seeds of one query, and for several queries."""
EARLIEST_FUTILITY = 0.1
"""The share of the clusters before which no comparison ends as open."""
MAX_RUN_LEVEL_FAMILY = 8
"""The largest family whose run-level comparisons may end early: larger ones need too many exchange patterns."""
PATTERNS_PER_LEVEL = 200
ROUNDING = 1e-12


@dataclass(frozen=True)
class LookDesign:
    """What a comparison plans before its first look.

    Attributes:
        planned: The number C of clusters.
        looks: The number K of looks.
        whole: Whether sums are whole because scores are 0 or 1.
        seeds: The number of seeds.
        group: The largest number of queries of a cluster.
    """

    planned: int
    looks: int
    whole: bool = True
    seeds: int = 1
    group: int = 1

    @property
    def sizes(self) -> list[int]:
        return look_sizes(self.planned, self.looks)

    @property
    def least_differing(self) -> int:
        """The number of clusters that must differ before the first look."""
        return GROUP_DIFFERING if self.group > 1 else SEEDS_DIFFERING if self.seeds > 1 else 0


@dataclass(frozen=True)
class LookResult:
    """A comparison at one look.

    Attributes:
        clusters: The number of clusters so far.
        time: Their share of all.
        p: The p-value that is valid at any time.
        side: The sign of the difference when p fell last; 0 if it never did.
        z: The standardized sum, which predicts the chance of a later verdict.
        difference: The mean difference so far.
        low: The lower end of the interval that is valid at any time; NaN for a run-level metric.
        high: The upper end.
        is_equal: Whether the interval at the level of the margin lies inside the margin.
        pairs: The number of pairs so far.
    """

    clusters: int
    time: float
    p: float
    side: int
    z: NaNFromNull
    difference: NaNFromNull
    low: NaNFromNull = nan
    high: NaNFromNull = nan
    is_equal: bool = False
    pairs: int = 0


@dataclass(frozen=True)
class Standing:
    """A comparison between looks: its last result, and whether and how it has ended. chance: of a later verdict."""

    result: LookResult | None = None
    end: End = "running"
    look: int = 0
    chance: float = nan


class ComparisonTest:
    """The test of one comparison: a sign walk, an e-process for a mean of 0 (`stop.null`), or exchange patterns.

    Args:
        design: The plan of the comparison.
        spec: The rule.
        family: The number m of comparisons.
    """

    def __init__(self, design: LookDesign, spec: StopSpec, family: int) -> None:
        self.design, self.spec, self.family = design, spec, family
        self.levels = np.array([spec.level / family]) if spec.margin is not None else ladder(family, spec.level)
        self.walk = SignWalk(self.levels, spec.spend)
        self.looked, self.p, self.side = 0, 1.0, 0

    @cached_property
    def rows(self) -> SpentLevel:
        """The exchange patterns of a run-level metric: 200 for the strictest level."""
        return SpentLevel(self.levels, self.spec.spend, ceil(PATTERNS_PER_LEVEL * self.family / self.spec.level))

    def look(self, sums: Floats, pairs: Floats) -> LookResult:
        """The result after some clusters. Each call gets the clusters of the earlier ones and more.

        Args:
            sums: [n] sums of arm minus reference, in the order of the clusters.
            pairs: [n] numbers of pairs.
        """
        whole = np.round(sums).astype(np.int64) if self.design.whole else lattice(sums, self.design.sizes[0])
        n, total, count = len(sums), int(whole.sum()), float(pairs.sum())
        self._take_looks(n, lambda start, stop: self._paired_p(sums, whole, start, stop))
        low, high = self._interval(sums, pairs, self.spec.level)
        is_equal = False
        if (margin := self.spec.margin) is not None:
            ends = self._interval(sums, pairs, self.spec.level / self.family)
            is_equal = -margin < ends[0] and ends[1] < margin
        if self.p <= self.spec.level and low < 0 < high:  # test and interval agree about 0
            low, high = (0.0, high) if self.side > 0 else (low, 0.0)
        elif self.p > self.spec.level:
            low, high = min(low, 0.0), max(high, 0.0)
        z = total / sqrt(max(1.0, float(np.sum(whole.astype(np.float64) ** 2))))
        difference = float(sums.sum()) / count if count else 0.0
        return LookResult(n, n / self.design.planned, self.p, self.side, z, difference, low, high, is_equal, int(count))

    def look_at_run(self, clusters: int, pairs: int, differences: Callable[[int, int], Floats]) -> LookResult:
        """The result of a run-level metric after some clusters, by exchange of the arms' names in random patterns.

        The first of the rows is the data. The test is exact for any number of rows, because they are exchangeable
        (Hemerik and Goeman 2018).

        Args:
            clusters: The number of clusters.
            pairs: The number of pairs.
            differences: (number of clusters, number of rows) -> [rows] differences, the data first.
        """
        values = np.zeros(0)

        def p_value(_: int, stop: int) -> tuple[float, int]:
            nonlocal values
            values = differences(stop, self.rows.total)
            sizes = np.where(np.isnan(values), inf, np.abs(np.round(values / ROUNDING) * ROUNDING))
            self.rows.reject(sizes, stop / self.design.planned)
            return self._least_level(self.rows.alive[:, 0] == 0), int(np.sign(values[0]))

        self._take_looks(clusters, p_value)
        spread, difference = float(np.nanstd(values)), float(values[0])
        z = difference / spread if spread > 0 else 0.0
        return LookResult(clusters, clusters / self.design.planned, self.p, self.side, z, difference, pairs=pairs)

    def _take_looks(self, clusters: int, p_value: Callable[[int, int], tuple[float, int]]) -> None:
        """Takes the looks that are due. p_value: (clusters of the look before, clusters) -> p and side of a look."""
        for size in self.design.sizes:
            if self.looked < size <= clusters:
                p, side = p_value(self.looked, size)
                self.looked = size
                if p < self.p:
                    self.p, self.side = p, side

    def _paired_p(self, sums: Floats, whole: NDArray[np.int64], start: int, stop: int) -> tuple[float, int]:
        """(p, side) of one look. It is skipped, and spends nothing, while too few clusters differ."""
        for size in np.abs(whole[start:stop]).tolist():
            self.walk.step(size)
        if stop < self.design.planned and np.count_nonzero(whole[:stop]) < self.design.least_differing:
            return 1.0, 0
        total = int(whole[:stop].sum())
        if self.spec.null == "mean":
            largest = self.design.seeds * self.design.group
            return float(zero_mean_p(sums[:stop] / largest)[-1]), int(np.sign(total))
        return self._least_level(abs(total) >= self.walk.look(stop / self.design.planned)), int(np.sign(total))

    def _least_level(self, rejected: NDArray[np.bool_]) -> float:
        return float(self.levels[rejected.argmax()]) if rejected.any() else 1.0

    def _interval(self, sums: Floats, pairs: Floats, level: float) -> tuple[float, float]:
        times = tuple(n / self.design.planned for n in self.design.sizes)
        c = z_boundaries(times, level, self.spec.spend)[self.design.sizes.index(len(sums))]
        return repeated_interval(sums, pairs, c)


def between(low: LookResult, high: LookResult) -> LookResult:
    """The result over all readings of unread outputs, from the results at the two ends.

    p, side, z and the difference are those of the end next to 0, and say nothing if 0 lies between the ends.
    """
    end = stats.end_next_to_zero(low, high) or replace(low, p=1.0, side=0, z=0.0)
    if end.side * end.difference < 0:  # p fell at an earlier look, for the other sign
        end = replace(end, p=1.0, side=0)
    difference = end.difference if low.difference * high.difference > 0 else 0.0
    is_equal = low.is_equal and high.is_equal
    return replace(end, difference=difference, low=low.low, high=high.high, is_equal=is_equal)


def end_comparisons(
    standings: Sequence[Standing], results: Mapping[int, LookResult], look: int, spec: StopSpec, family: int
) -> list[Standing]:
    """The standings after a look.

    Args:
        standings: One per comparison, before the look.
        results: Comparison -> its result at this look, of those that run.
        look: The number of the look.
        spec: The rule.
        family: The number m of comparisons that were planned; some may not be among the standings any more.
    """
    after = [replace(one, result=results[i], look=look) if i in results else one for i, one in enumerate(standings)]
    p = [1.0 if one.result is None else one.result.p for one in after]
    if spec.margin is None:
        decided = holm_decided(p, family, spec.level)
        due = spec.level / max(1, family - int(decided.sum()))
    else:
        due = spec.level / family
        decided = np.array([one.end != "equal" and value <= due for one, value in zip(after, p, strict=True)])
    return [
        replace(one, end="decided") if decided[i] else _ended(one, spec, due) if i in results else one
        for i, one in enumerate(after)
    ]


def _ended(one: Standing, spec: StopSpec, due: float) -> Standing:
    """A comparison that is not decided, after a look at it."""
    result = one.result
    assert result is not None
    if result.is_equal:
        return replace(one, end="equal")
    if result.time >= 1:
        return replace(one, end="open", chance=0.0)
    chance = float(predictive_power(result.z, result.time, due))
    is_futile = spec.margin is None and result.time >= EARLIEST_FUTILITY and chance < (spec.futility or 0.0)
    return replace(one, end="open" if is_futile else "running", chance=chance)
