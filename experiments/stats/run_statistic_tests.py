"""Two arms by a metric of a whole run: the randomization test, and the interval of the difference.

p         randomization (Fisher 1935; for F1: Yeh 2000): the two arms are exchanged within each cluster or not, and
          p is the share of exchanges whose difference is as large. Exact under the null that exchanging them
          changes nothing, at any value of the statistic. All exchanges where few clusters differ, else a random
          sample of them and the one that was seen.
interval  percentiles over clusters drawn anew (Efron and Tibshirani 1993, ch. 13), each cell's statistic computed
          from what was drawn. Where that gives one value only, as for equal arms, it ends where z^2 clusters more
          would bring it that are as good as can be in one arm and as bad in the other.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.stats.intervals import CHUNK, RESAMPLES, Floats, normal_quantile, resampled_counts
from experiments.stats.run_statistics import NO_SPREAD, Stratum, total_of
from experiments.stats.sign_flips import MAX_ENUMERATED
from icl.streams import StreamKey

WIDE, FEWER = 64, 2_000
"""A statistic of more than WIDE sums (an area) is drawn FEWER times."""


def randomization_p(strata: Sequence[Stratum], resamples: int = RESAMPLES) -> float:
    """Two-sided p of the difference of two arms, exchanged within clusters. 1 where no cluster differs."""
    deltas = [stratum.arm - stratum.reference for stratum in strata]
    differ = np.flatnonzero(sum(np.asarray(abs(delta).sum(axis=1)).ravel() for delta in deltas))
    changed = [delta[differ] for delta in deltas]
    sums = [(total_of(stratum.reference), total_of(stratum.arm)) for stratum in strata]

    def difference(exchanged: Floats) -> Floats:
        found = np.zeros(len(exchanged))
        for stratum, delta, (reference, arm) in zip(strata, changed, sums, strict=True):
            moved = np.asarray(exchanged @ delta)
            found += stratum.weight * (stratum.of(arm - moved) - stratum.of(reference + moved))
        return found

    seen = abs(float(difference(np.zeros((1, len(differ))))[0]))
    width = max(len(differ), *(len(stratum.least) for stratum in strata))
    extreme = drawn = 0
    for exchanged in _exchanges(len(differ), _draws(strata, resamples), max(1, CHUNK // width)):
        found = np.abs(difference(exchanged))
        extreme += int(np.sum(~(found < seen - 1e-12)))  # what cannot be computed counts as extreme
        drawn += len(found)
    return extreme / drawn if len(differ) <= MAX_ENUMERATED else (1 + extreme) / (1 + drawn)


def run_statistic_interval(strata: Sequence[Stratum], clusters: int, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the difference of two arms: percentiles over clusters drawn anew, where these differ at all."""
    width = max(clusters, *(len(stratum.least) for stratum in strata))
    step = max(1, CHUNK // width)
    found = []
    for counts in resampled_counts(clusters, _draws(strata, RESAMPLES)):
        for piece in (counts[i : i + step] for i in range(0, len(counts), step)):
            told = np.zeros(len(piece))
            for stratum in strata:
                sums = (np.asarray(piece @ stratum.arm), np.asarray(piece @ stratum.reference))
                told += stratum.weight * (stratum.of(sums[0]) - stratum.of(sums[1]))
            found.append(told)
    drawn = np.concatenate(found)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and float(np.ptp(drawn)) >= NO_SPREAD:
        low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)
    z2 = normal_quantile(0.5 + level / 2) ** 2
    ends = [sum(_apart(one, z2 * one.least, z2 * one.most) for one in strata)]
    ends += [sum(_apart(one, z2 * one.most, z2 * one.least) for one in strata)]
    return min(ends), max(ends)


def _apart(stratum: Stratum, arm: Floats, reference: Floats) -> float:
    """The weighted difference with these sums more in either arm."""
    mine, theirs = total_of(stratum.arm) + arm, total_of(stratum.reference) + reference
    return stratum.weight * float(stratum.of(mine) - stratum.of(theirs))


def _draws(strata: Sequence[Stratum], resamples: int) -> int:
    return resamples if max(len(stratum.least) for stratum in strata) <= WIDE else min(resamples, FEWER)


def _exchanges(clusters: int, resamples: int, step: int) -> Iterator[Floats]:
    """[rows, clusters] of 0 and 1, the clusters in which the arms are exchanged: all choices of few, else a sample."""
    if clusters <= MAX_ENUMERATED:
        every = np.arange(2**clusters)
        for start in range(0, len(every), step):
            yield (every[start : start + step, None] >> np.arange(clusters) & 1).astype(np.float64)
        return
    generator = StreamKey(0, "").numpy("randomisation")
    for start in range(0, resamples, step):
        yield generator.integers(0, 2, (min(step, resamples - start), clusters)).astype(np.float64)
