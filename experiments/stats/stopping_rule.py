"""The rule of `stop`: which comparisons of a family end at a look, and with which verdict.

    decided  Holm's method on p-values that are valid at any time (`sequential.holm_decided`). The chance of any false
             verdict in the family is at most `level`, whenever the user looks or stops.
    open     The chance of a later verdict fell below `futility`, or all clusters are in. It is never called equal. Its
             p stays, and it may still be decided when others free their level.
    equal    With a `margin`: the interval at level / m lies inside it. Then the test keeps level / m too, so that each
             comparison has one possible false statement. Futility then ends no comparison, since the interval of
             equal arms needs the data.

Each comparison has a test with one method, `look`, which gets the clusters so far and returns a `LookResult`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from experiments.config.keys import StopSpec
from experiments.stats.exchange_looks import ExchangeLooks, exchange_differences, num_patterns
from experiments.stats.run_statistics import Stratum
from experiments.stats.sequential import (
    SignWalk,
    holm_decided,
    ladder,
    lattice,
    look_sizes,
    predictive_power,
    repeated_interval,
    z_boundaries,
    zero_mean_p,
)

Floats = NDArray[np.float64]
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


@dataclass(frozen=True)
class LookDesign:
    """What a comparison plans before its first look.

    Attributes:
        planned: The number C of clusters.
        looks: The number K of looks.
        whole: Whether sums are whole because scores are 0 or 1.
        largest: The largest number of pairs of a cluster.
        least_differing: The number of clusters that must differ before the first look.
    """

    planned: int
    looks: int
    whole: bool = True
    largest: int = 1
    least_differing: int = 0

    @property
    def sizes(self) -> list[int]:
        return look_sizes(self.planned, self.looks)

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(n / self.planned for n in self.sizes)


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


class PairedLooks:
    """The test of sample scores: a sign walk, or an e-process for a mean of 0 (`stop.null`).

    Args:
        design: The plan of the comparison.
        spec: The rule.
        family: The number m of comparisons.
    """

    def __init__(self, design: LookDesign, spec: StopSpec, family: int) -> None:
        self.design, self.spec, self.family = design, spec, family
        self.levels = np.array([spec.level / family]) if spec.margin is not None else ladder(family, spec.level)
        self.walk = SignWalk(self.levels, spec.spend)
        self.walked, self.looked, self.p, self.side = 0, 0, 1.0, 0

    def look(self, sums: Floats, pairs: Floats) -> LookResult:
        """The result at a look. Looks come in order; each gets the clusters of the earlier ones and more.

        Args:
            sums: [n] sums of arm minus reference, in the order of the clusters.
            pairs: [n] numbers of pairs.
        """
        self.looked = n = len(sums)
        time = n / self.design.planned
        whole = self._whole(sums)
        total, differing = int(whole.sum()), int(np.count_nonzero(whole))
        if n == self.design.planned or differing >= self.design.least_differing:
            p = self._mean_p(sums) if self.spec.null == "mean" else self._walk_p(whole, total, time)
            if p < self.p:
                self.p, self.side = p, int(np.sign(total))
        count = float(pairs.sum())
        low, high = self._interval(sums, pairs, self.spec.level)
        is_equal = False
        if (margin := self.spec.margin) is not None:
            ends = self._interval(sums, pairs, self.spec.level / self.family)
            is_equal = -margin < ends[0] and ends[1] < margin
        if self.p <= self.spec.level and low < 0 < high:  # test and interval agree about 0
            low, high = (0.0, high) if self.side > 0 else (low, 0.0)
        elif self.p > self.spec.level:
            low, high = min(low, 0.0), max(high, 0.0)
        return LookResult(
            clusters=n,
            time=time,
            p=self.p,
            side=self.side,
            z=total / sqrt(max(1.0, float(np.sum(whole.astype(np.float64) ** 2)))),
            difference=float(sums.sum()) / count if count else 0.0,
            low=low,
            high=high,
            is_equal=is_equal,
            pairs=int(count),
        )

    def _whole(self, sums: Floats) -> NDArray[np.int64]:
        if self.design.whole:
            return np.round(sums).astype(np.int64)
        return lattice(sums, self.design.sizes[0])

    def _walk_p(self, whole: NDArray[np.int64], total: int, time: float) -> float:
        for size in np.abs(whole[self.walked :]).tolist():
            self.walk.step(size)
        self.walked = len(whole)
        rejected = np.flatnonzero(abs(total) >= self.walk.look(time))
        return float(self.levels[rejected[0]]) if len(rejected) else 1.0

    def _mean_p(self, sums: Floats) -> float:
        return float(zero_mean_p(sums / self.design.largest)[-1])

    def _interval(self, sums: Floats, pairs: Floats, level: float) -> tuple[float, float]:
        times = self.design.times
        c = z_boundaries(times, level, self.spec.spend)[min(self.design.sizes.index(len(sums)), len(times) - 1)]
        return repeated_interval(sums, pairs, c)


class RunLevelLooks:
    """The Monte Carlo test of a run-level metric, for families of at most `exchange_looks.MAX_FAMILY`.

    Args:
        design: The plan of the comparison.
        spec: The rule.
        family: The number m of comparisons.
    """

    def __init__(self, design: LookDesign, spec: StopSpec, family: int) -> None:
        self.design, self.spec = design, spec
        levels = np.array([spec.level / family]) if spec.margin is not None else ladder(family, spec.level)
        self.rows = num_patterns(family, spec.level)
        self.test = ExchangeLooks(levels, spec.spend, self.rows)
        self.looked, self.p, self.side = 0, 1.0, 0

    def look(self, strata: Sequence[Stratum], clusters: Sequence[str], pairs: int) -> LookResult:
        """The result at a look.

        Args:
            strata: The cells of both arms on the clusters so far.
            clusters: The ids of these clusters.
            pairs: The number of pairs.
        """
        self.looked = len(clusters)
        time = self.looked / self.design.planned
        differences = exchange_differences(strata, clusters, self.rows, self.spec.seed)
        p = self.test.look(differences, time)
        if p < self.p:
            self.p, self.side = p, int(np.sign(differences[0]))
        spread = float(np.nanstd(differences))
        z = float(differences[0]) / spread if spread > 0 else 0.0
        return LookResult(len(clusters), time, self.p, self.side, z, float(differences[0]), pairs=pairs)


def least_differing(seeds: int, largest_group: int) -> int:
    """The number of clusters that must differ before the first look."""
    if largest_group > 1:
        return GROUP_DIFFERING
    return SEEDS_DIFFERING if seeds > 1 else 0


def number_of_looks(spec: StopSpec, models: int) -> int:
    """The number of looks: that of the rule, else its default for so many models."""
    return spec.looks or (LOOKS_OF_SEVERAL_MODELS if models > 1 else DEFAULT_LOOKS)


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
        decided = np.array([value <= due for value in p], dtype=bool)
        decided &= [one.end != "equal" for one in after]
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
    chance = predictive_power(result.z, result.time, due)
    is_futile = spec.margin is None and spec.futility is not None and result.time >= EARLIEST_FUTILITY
    return replace(one, end="open" if is_futile and chance < (spec.futility or 0.0) else "running", chance=chance)
