"""Two arms, aligned on the same queries under the same seeds. Arms that differ in these are refused, not intersected.

Pairs are formed by (query, seed), and by further keys if several settings are pooled. A pair is dropped if either
sample failed or the metric does not apply to it; the number of dropped pairs is reported. For a run-level metric the
pairs are formed first, and the statistic of either arm is computed on the remaining samples (`exchanges`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT
from experiments.stats.exchanges import PairedCells, Stratum, align_run_statistics, build_strata, randomization_test
from experiments.stats.intervals import Floats, cluster_codes, cluster_sums, is_binary
from experiments.stats.run_level_frames import SAMPLE, run_level_columns
from experiments.stats.sign_flips import paired_proportions_test, sign_flip_test
from experiments.stats.significance import holm, level_of_test
from icl import ConfigError, DataFrame, ICLError, pd

KEYS = ("query", "seed")
ROUNDING = 1e-12
T = TypeVar("T")


class UnpairedError(ICLError):
    """Two arms do not have the same queries and seeds."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Scores of two arms on the same samples.

    Attributes:
        reference: [n] scores of the reference arm.
        arm: [n] scores of the other arm, in the same order.
        clusters: [n] labels; equal labels belong to one independent unit.
        dropped_pairs: The number of pairs without both scores.
        strata: The cells of a run-level metric; their numbers are not scores of samples.
        is_graded: Whether the numbers are neither right nor wrong although they may be 0 and 1, such as gains.
        rows: The positions of the pairs in the frames of the reference arm and of the other arm.
    """

    reference: Floats
    arm: Floats
    clusters: NDArray[Any]
    dropped_pairs: int = 0
    strata: Sequence[Stratum] = ()
    is_graded: bool = False
    rows: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None

    @property
    def differences(self) -> Floats:
        """[n]: arm minus reference."""
        return self.arm - self.reference

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True)
class PairedTestResult:
    """The mean difference of two arms, arm minus reference, with its interval and its p.

    Attributes:
        difference: The mean difference.
        low: The lower end of its interval.
        high: The upper end of its interval.
        p: Two-sided.
        pairs: The number of pairs.
        clusters: The number of independent units among them.
        test: 'mcnemar' (exact, with the signs of a cluster flipped together) for right/wrong scores, 'randomization'
            for graded scores and run-level metrics.
        right_to_wrong: The number of pairs whose score fell. None for a run-level metric, which has no score of a
            single sample.
        wrong_to_right: The number of pairs whose score rose. None for a run-level metric.
        dropped_pairs: The number of pairs without both scores.
        is_identical: Whether no pair differs.
    """

    difference: float
    low: float
    high: float
    p: float
    pairs: int
    clusters: int
    test: str
    right_to_wrong: int | None
    wrong_to_right: int | None
    dropped_pairs: int
    is_identical: bool = False


def align_pairs(
    reference: DataFrame,
    arm: DataFrame,
    metric: str,
    on: Sequence[str] = KEYS,
    *,
    names: tuple[str, str] = ("reference", "arm"),
    reference_metric: str | None = None,
) -> Pairs:
    """Aligns the samples of two arms.

    Args:
        reference: The samples of the reference arm, tidy (see `arms`).
        arm: The samples of the other arm, tidy.
        metric: The column of scores.
        on: The columns that identify a pair.
        names: What error messages call the two arms.
        reference_metric: The reference's column of scores, if it is another one (such as the vote's).

    Raises:
        UnpairedError: If one arm lacks keys of the other, or has a key twice.
        ConfigError: If the arms have different metrics.
    """
    columns = reference_metric or metric, metric
    frames = reference, arm
    left, right = key_codes(frames, list(on))
    for frame, codes, name in zip(frames, (left, right), names, strict=True):
        _refuse_duplicates(frame, codes, list(on), name)
    order = _matching_rows(left, right)
    _refuse_missing(reference, left, right, list(on), names)
    _refuse_missing(arm, right, left, list(on), names[::-1])
    units = arm[UNIT].to_numpy()[order]
    scores = [run_level_columns(frame).get(column) for column, frame in zip(columns, frames, strict=True)]
    if (scores[0] is None) != (scores[1] is None):
        raise ConfigError(f"'{columns[0]}' and '{columns[1]}' cannot be paired: one of them is a run-level metric.")
    cells: PairedCells = ()
    if scores[0] is not None and scores[1] is not None:
        numbers = reference[SAMPLE].to_numpy(), arm[SAMPLE].to_numpy()[order]
        a, b, cells = align_run_statistics(scores[0], scores[1], numbers)
    else:
        a = reference[columns[0]].to_numpy(dtype=np.float64, na_value=np.nan)
        b = arm[metric].to_numpy(dtype=np.float64, na_value=np.nan)[order]
    valid = np.isfinite(a) & np.isfinite(b)
    place, rows = np.cumsum(valid) - 1, (np.flatnonzero(valid), order[valid])
    placed = [(place[places], one, other) for places, one, other in cells]
    strata = build_strata(placed, cluster_codes(units[valid])) if placed else ()
    return Pairs(a[valid], b[valid], units[valid], int((~valid).sum()), strata, rows=rows)


def paired_test(pairs: Pairs, level: float = 0.95, names: tuple[str, str] = ("reference", "arm")) -> PairedTestResult:
    """Tests the mean difference of two arms.

    The interval holds the differences that the test does not reject: it leaves out 0 exactly if p is at most
    1 - level, at every number of pairs and clusters. Right/wrong scores use `paired_proportions`, graded ones
    `sign_flips`, run-level metrics `exchanges`.

    Args:
        pairs: The aligned arms.
        level: The confidence level.
        names: What error messages call the two arms.

    Raises:
        UnpairedError: If no pair is left.
    """
    if not len(pairs):
        raise UnpairedError(
            f"{names[0]} and {names[1]} have no pair that both answered ({pairs.dropped_pairs} dropped)."
        )
    d = np.where(np.abs(pairs.differences) <= ROUNDING, 0.0, pairs.differences)
    is_run_level = bool(pairs.strata)
    binary = not (is_run_level or pairs.is_graded) and is_binary(pairs.reference) and is_binary(pairs.arm)
    sums, sizes = cluster_sums(d, cluster_codes(pairs.clusters))
    if is_run_level:
        test = randomization_test(pairs.strata, sizes, level)
    elif binary:
        test = paired_proportions_test(sums, sizes, level)
    else:
        widest = max(1.0, float(np.abs(d).max()))
        test = sign_flip_test(sums, sizes, level, lowest=-widest, highest=widest)
    difference = float(d.mean())
    return PairedTestResult(
        difference=0.0 if abs(difference) < ROUNDING else difference,
        low=test.low,
        high=test.high,
        p=test.p,
        pairs=len(pairs),
        clusters=len(sums),
        test="mcnemar" if binary else "randomization",
        right_to_wrong=None if is_run_level else int(np.sum(d < 0)),
        wrong_to_right=None if is_run_level else int(np.sum(d > 0)),
        dropped_pairs=pairs.dropped_pairs,
        is_identical=all(stratum.is_identical for stratum in pairs.strata) if is_run_level else not np.any(d),
    )


def end_next_to_zero(low: T, high: T, of: Callable[[T], float] = attrgetter("difference")) -> T | None:
    """The end of a range of differences that decides on its sign; None if 0 lies within the range.

    Args:
        low: What the lower end has.
        high: What the upper end has.
        of: The difference of an end.
    """
    return low if of(low) > 0 else high if of(high) < 0 else None


def corrected_interval(pairs: Pairs, p: float, corrected: float, family: int) -> tuple[float, float]:
    """The interval that leaves out 0 exactly if the corrected p is at most SIGNIFICANCE_LEVEL.

    Args:
        pairs: The aligned arms.
        p: Their p before the correction.
        corrected: Their p after it.
        family: The number of tests that p was corrected for.
    """
    result = paired_test(pairs, 1 - level_of_test(p, corrected, family))
    return result.low, result.high


def corrected_tests(every: Sequence[Pairs], names: tuple[str, str] = ("reference", "arm")) -> list[PairedTestResult]:
    """The tests of several pairs of arms, with p after Holm and the interval that agrees with it."""
    tests = [paired_test(pairs, names=names) for pairs in every]
    adjusted = map(float, holm([test.p for test in tests]))
    return [
        replace(test, p=p, low=low, high=high)
        for test, pairs, p in zip(tests, every, adjusted, strict=True)
        for low, high in [corrected_interval(pairs, test.p, p, len(tests))]
    ]


def key_codes(frames: tuple[DataFrame, DataFrame], keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys of both frames as numbers: equal numbers are equal keys."""
    codes = np.zeros(sum(map(len, frames)), dtype=np.int64)
    for key in keys:
        values, uniques = pd.factorize(
            np.concatenate([frame[key].to_numpy() for frame in frames]), use_na_sentinel=False
        )
        codes = codes * len(uniques) + values
    left, right = np.split(codes, [len(frames[0])])
    return left, right


def _matching_rows(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.intp]:
    """The row of `right` with the key of each row of `left`. Keys must be unique; missing ones give any row."""
    if len(left) == len(right) and np.array_equal(left, right):
        return np.arange(len(left))
    if not len(right):
        return np.zeros(0, dtype=np.intp)
    order = np.argsort(right)
    return order[np.minimum(np.searchsorted(right, left, sorter=order), len(right) - 1)]


def _refuse_duplicates(frame: DataFrame, codes: NDArray[np.int64], keys: Sequence[str], name: str) -> None:
    unique, first = np.unique(codes, return_index=True)
    if len(unique) < len(codes):
        duplicate = frame[list(keys)].iloc[int(np.setdiff1d(np.arange(len(codes)), first)[0])]
        example = ", ".join(f"{key} {value}" for key, value in duplicate.items())
        raise UnpairedError(
            f"{name} has {example} more than once: it mixes several settings. Specify the axis that separates them."
        )


def _refuse_missing(
    frame: DataFrame,
    codes: NDArray[np.int64],
    other_codes: NDArray[np.int64],
    keys: Sequence[str],
    names: tuple[str, str],
) -> None:
    missing = np.flatnonzero(~np.isin(codes, other_codes))
    if len(missing):
        name, other = names
        example = ", ".join(f"{key} {value}" for key, value in frame[list(keys)].iloc[int(missing[0])].items())
        raise UnpairedError(
            f"{name} and {other} are not paired: {len(missing)} of {len(codes)} samples of {name} have no "
            f"counterpart in {other} (the first: {example}). Finish the run (the same `icl run` command), "
            "or compare arms with the same queries and seeds."
        )
