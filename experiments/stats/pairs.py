"""Two arms, aligned: the same queries under the same seeds. Anything else is refused, not intersected.

Pairs stand by (query, seed), and by further keys where several settings are pooled. A sample that failed, or on which
the metric does not apply, drops its pair, and the number of dropped pairs stays visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT
from experiments.stats.intervals import Estimate, Floats, bootstrap_mean, is_binary, wilson
from experiments.stats.significance import bootstrap_p, sign_flip
from icl.errors import ICLError

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("query", "seed")


class UnpairedError(ICLError):
    """Two arms that do not stand on the same queries and seeds."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """reference, arm: [n] scores of the same (query, seed). clusters: [n], what belongs together."""

    reference: Floats
    arm: Floats
    clusters: NDArray[Any]
    dropped: int = 0

    @property
    def differences(self) -> Floats:
        return self.arm - self.reference

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True)
class Comparison:
    """Arm minus reference. test: 'mcnemar' (exact, clusters flipped together) or 'bootstrap' (graded)."""

    difference: float
    low: float
    high: float
    p: float
    pairs: int
    clusters: int
    test: str
    right_to_wrong: int
    wrong_to_right: int
    dropped: int


def pair(
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
    columns = [*keys, UNIT, *dict.fromkeys((metric, reference_metric or metric))]
    reference, arm = reference[columns], arm[columns]
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
    a = left[reference_metric or metric].to_numpy(dtype=np.float64, na_value=np.nan)
    b = right[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    kept = np.isfinite(a) & np.isfinite(b)
    return Pairs(a[kept], b[kept], right[UNIT].to_numpy()[kept], int((~kept).sum()))


def paired_test(pairs: Pairs, level: float = 0.95, names: tuple[str, str] = ("reference", "arm")) -> Comparison:
    """The mean difference, its interval and its p. Raises UnpairedError where no pair is left.

    The interval is a bootstrap over clusters. Where no pair differs at all it is ± the Wilson bound of 0 in C clusters:
    so much could still differ.
    """
    if not len(pairs):
        raise UnpairedError(f"{names[0]} and {names[1]} have no pair that both answered ({pairs.dropped} dropped).")
    d = pairs.differences
    binary = is_binary(pairs.reference) and is_binary(pairs.arm)
    p = sign_flip(d, pairs.clusters) if binary else bootstrap_p(d, pairs.clusters)
    interval = _interval(d, pairs.clusters, level)
    return Comparison(
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=p,
        pairs=interval.samples,
        clusters=interval.clusters,
        test="mcnemar" if binary else "bootstrap",
        right_to_wrong=int(np.sum(d < 0)),
        wrong_to_right=int(np.sum(d > 0)),
        dropped=pairs.dropped,
    )


def _interval(d: Floats, clusters: NDArray[Any], level: float) -> Estimate:
    found = bootstrap_mean(d, clusters, level)
    if np.any(d != 0):
        return found
    bound = wilson(0, found.clusters, level)[1]
    return Estimate(0.0, -bound, bound, found.samples, found.clusters)


def _told(row: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())
