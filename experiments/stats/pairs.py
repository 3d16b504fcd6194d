"""Two arms, aligned: the same queries under the same seeds. Anything else is refused, not intersected.

Pairs stand by (query, seed), and by further keys where several settings are pooled. A sample that failed, or on which
the metric does not apply, drops its pair, and the number of dropped pairs stays visible. Of a metric of a whole run the
pairs are made first, and its numbers are computed on what is left of both arms (`whole`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT
from experiments.stats.formatting import FEW_UNITS
from experiments.stats.intervals import (
    Estimate,
    Floats,
    bootstrap_mean,
    cluster_codes,
    cluster_sums,
    interval_without_spread,
    is_binary,
)
from experiments.stats.run_statistic_tests import randomization_p, run_statistic_interval
from experiments.stats.run_statistics import Stratum, align_run_statistics, build_strata, sample_ref_column
from experiments.stats.sign_flips import sign_flip_interval, sign_flip_p
from experiments.stats.significance import exact_sign_flip_p
from icl.errors import ICLError

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("query", "seed")
ROUNDING = 1e-12


class UnpairedError(ICLError):
    """Two arms that do not stand on the same queries and seeds."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """reference, arm: [n] scores of the same (query, seed). clusters: [n], what belongs together.

    strata: of a metric of a whole run, whose numbers are no scores. graded: the numbers are no scores, and there are
    no strata of them (differences of such numbers, say).
    """

    reference: Floats
    arm: Floats
    clusters: NDArray[Any]
    dropped: int = 0
    strata: Sequence[Stratum] = ()
    graded: bool = False

    @property
    def differences(self) -> Floats:
        return self.arm - self.reference

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True)
class PairedTestResult:
    """Arm minus reference. test: 'mcnemar' (exact, clusters flipped together), 'randomization' (graded, whole runs).

    right_to_wrong, wrong_to_right: None of a metric of a whole run, which has no answers of its own that could turn.
    same: no pair differs.
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
    dropped: int
    same: bool = False


def align_pairs(
    reference: "DataFrame",
    arm: "DataFrame",
    metric: str,
    on: Sequence[str] = KEYS,
    *,
    names: tuple[str, str] = ("reference", "arm"),
    reference_metric: str | None = None,
) -> Pairs:
    """Aligns two frames on `on`. Raises UnpairedError where one lacks keys of the other, or has some twice.

    Frames: tidy (see `arms`), with `on` and the metric. reference_metric: where the reference is another column
    (the vote of the same demonstrations, say).
    """
    keys = list(on)
    judged, frames = (reference_metric or metric, metric), (reference, arm)
    whole = all(sample_ref_column(column) in frame for column, frame in zip(judged, frames, strict=True))
    columns = [*keys, UNIT, *dict.fromkeys((*judged, *(map(sample_ref_column, judged) if whole else ())))]
    (reference, arm) = (frame[[c for c in columns if c in frame]] for frame in (reference, arm))
    for frame, name in ((reference, names[0]), (arm, names[1])):
        twice = frame.duplicated(keys)
        if twice.any():
            raise UnpairedError(
                f"{name} has {_told(frame.loc[twice, keys].iloc[0])} more than once: it mixes several settings. "
                "Name the axis that tells them apart."
            )
    left = reference.set_index(keys)
    right = arm.set_index(keys)
    for these, others, (one, other) in ((left, right, names), (right, left, names[::-1])):
        missing = these.index.difference(others.index)
        if len(missing):
            first = missing[0] if isinstance(missing[0], tuple) else (missing[0],)
            example = ", ".join(f"{k} {v}" for k, v in zip(keys, first, strict=True))
            raise UnpairedError(
                f"{one} and {other} are not paired: {len(missing)} of {len(these)} samples of {one} have no "
                f"counterpart in {other} (the first: {example}). Finish the run (the same `icl run` command), "
                "or compare arms with the same queries and seeds."
            )
    right = right.loc[left.index]
    if whole:
        return _of_whole(left[sample_ref_column(judged[0])], right[sample_ref_column(judged[1])], right[UNIT])
    a = left[reference_metric or metric].to_numpy(dtype=np.float64, na_value=np.nan)
    b = right[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    kept = np.isfinite(a) & np.isfinite(b)
    graded = any(sample_ref_column(column) in frame for column, frame in zip(judged, frames, strict=True))
    return Pairs(a[kept], b[kept], right[UNIT].to_numpy()[kept], int((~kept).sum()), graded=graded)


def paired_test(pairs: Pairs, level: float = 0.95, names: tuple[str, str] = ("reference", "arm")) -> PairedTestResult:
    """The mean difference, its interval and its p. Raises UnpairedError where no pair is left.

    The interval of graded differences is all that the test leaves open (`subsets`); of right/wrong ones, which have few
    values, it is a bootstrap over clusters where there are FEW of these. Where all clusters have the same difference
    (0, mostly) it ends where z^2 clusters more would bring it that are 1 in one arm and 0 in the other: for 0 that is ±
    the Wilson bound of 0 in C clusters. So much could still differ.
    """
    if not len(pairs):
        raise UnpairedError(f"{names[0]} and {names[1]} have no pair that both answered ({pairs.dropped} dropped).")
    if pairs.strata:
        return _of_strata(pairs, level)
    d = pairs.differences
    binary = not pairs.graded and is_binary(pairs.reference) and is_binary(pairs.arm)
    codes = cluster_codes(pairs.clusters)
    sums, _ = cluster_sums(d, codes)
    p = exact_sign_flip_p(d, pairs.clusters) if binary else sign_flip_p(sums)
    interval = _interval(d, codes, level, binary and len(sums) >= FEW_UNITS)
    return PairedTestResult(
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=p,
        pairs=interval.samples,
        clusters=interval.clusters,
        test="mcnemar" if binary else "randomization",
        right_to_wrong=int(np.sum(d < 0)),
        wrong_to_right=int(np.sum(d > 0)),
        dropped=pairs.dropped,
        same=not np.any(d),
    )


def _of_whole(reference: Any, arm: Any, units: Any) -> Pairs:
    a, b, cells = align_run_statistics(list(reference), list(arm))
    kept = np.isfinite(a)
    clusters, place = units.to_numpy()[kept], np.cumsum(kept) - 1
    told = [(place[rows], one, other) for rows, one, other in cells]
    strata = build_strata(told, cluster_codes(clusters)) if told else ()
    return Pairs(a[kept], b[kept], clusters, int((~kept).sum()), strata)


def _of_strata(pairs: Pairs, level: float) -> PairedTestResult:
    """Of a metric of a whole run."""
    clusters = len(set(pairs.clusters))
    low, high = run_statistic_interval(pairs.strata, clusters, level)
    difference = float(pairs.differences.mean())
    p = randomization_p(pairs.strata)
    return PairedTestResult(
        difference=0.0 if abs(difference) < ROUNDING else difference,
        low=low,
        high=high,
        p=p,
        pairs=len(pairs),
        clusters=clusters,
        test="randomization",
        right_to_wrong=None,
        wrong_to_right=None,
        dropped=pairs.dropped,
        same=not np.any(np.abs(pairs.differences) > ROUNDING),
    )


def _interval(d: Floats, codes: NDArray[np.intp], level: float, drawn: bool) -> Estimate:
    """drawn: by a bootstrap."""
    found = bootstrap_mean(d, codes, level)
    if found.low == found.high:
        low, high = interval_without_spread(found.mean, found.clusters, level)
        return replace(found, low=low, high=high)
    if drawn:
        return found
    widest = max(1.0, float(np.abs(d).max()))
    low, high = sign_flip_interval(*cluster_sums(d, codes), level, least=-widest, most=widest)
    return replace(found, low=low, high=high)


def _told(row: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())
