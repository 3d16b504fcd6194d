"""The difference of two arms if some outputs could not be read, from labels of a random sample of queries.

Two-phase sampling with a regression estimator (Cochran, Sampling Techniques, ch. 12), known as prediction-powered
inference with power tuning (Angelopoulos et al., Science 2023; Angelopoulos, Duchi and Zrnic 2023, PPI++). A proxy,
such as a judge model or the rules of `lenient`, scores every output. The labels of a few measure how wrong it is.

    g_i   the part of the difference of pair i that lies in its unread outputs, by the proxy;  y_i  the same by labels
    B_i   the part that was read: an unread output counts 0
    k     slope of y on g over the labeled pairs, within 0 and 1; 1 with fewer than MIN_LABELS
    r_i = y_i - k g_i,   rbar = mean of r over the labeled pairs
    e_i = B_i + k g_i + U_i rbar + S_i (u / m) (r_i - rbar) sqrt(m / (m - 1))
    difference = mean e,   its variance that of clustered means (`intervals.mean_variance`) + (u / n)^2 / (c (c - 1))

u pairs have an unread output (U_i = 1), and m of these, in c clusters, are labeled (S_i = 1). The last term is for
errors that are too rare for c clusters: it is the variance that one more cluster, with a residual 1 off their mean,
adds. Without it, 20 labels that all agree with a judge would call it perfect. Pairs of a cluster share their errors, so
they do not count singly. A poor proxy makes the interval wider, never wrong. Student's t has the fewer degrees of
freedom of the effective clusters and of the labeled clusters. Once everything is labeled, it is the exact paired test.

If the reader errs (`ReaderAudit`), the outputs that it read are a second stratum with U_i = 1 for all pairs: g_i is the
reader's part of the difference, and y_i what people say of the same outputs.

Labels of more queries are a further look at the same difference, with its own share of the level (`share_of_level`).

A label may be "cannot tell". Both ways to fill it are computed, and the interval covers both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT, unread_column
from experiments.stats.intervals import Codes, Floats, cluster_codes, cluster_sums, effective_clusters, mean_variance
from experiments.stats.pairs import PairedTestResult, Pairs, end_next_to_zero, paired_test
from experiments.stats.significance import level_of_test
from icl import DataFrame, scipy

Flags = NDArray[np.bool_]

MIN_LABELS = 20
"""With fewer labeled clusters there is no estimate. `python -m lab.simulation labels` measures the coverage at 20."""
LABELED_QUERIES = 60
"""The queries whose labels decide most comparisons: their intervals are then 1.4 times those with all labels."""
LABELS_TEST = "labels"
"""The `test` of a result that labels of a sample settle."""
AUDIT_LIMIT = 0.02
"""The share of read outputs that the reader may misread before they are corrected too."""


class LabelColumn(StrEnum):
    """The columns of a frame whose outputs have labels (`experiments.results.labeling.apply_labels`)."""

    UNREAD = "label:unread"  # whether the reader could not read the output
    LABEL = "label:right"  # 1 or 0 by people; NaN without a label, and if nobody can tell
    PROXY = "label:proxy"  # what the proxy says
    SAMPLED = "label:sampled"  # whether the query is of the sample in which all unread outputs were labeled
    AUDITED = "label:audited"  # whether its read outputs were labeled too, and the reader was found to err
    LOOK = "label:look"  # the first of the finished samples, from 1, with the query; the last for other queries

    def of(self, metric: str) -> str:
        """The column's name for a metric."""
        return f"{self}:{metric}"


@dataclass(frozen=True, eq=False)
class LabeledArm:
    """The outputs of one arm, in the order of the pairs.

    Attributes:
        score: [n], what the reader says; NaN for an unread output.
        proxy: [n], what the proxy says of every output.
        label: [n], what people say; NaN for an output without a label, and for one of which nobody can tell.
    """

    score: Floats
    proxy: Floats
    label: Floats

    @property
    def unread(self) -> Flags:
        return np.isnan(self.score)


@dataclass(frozen=True)
class ReaderAudit:
    """How many read outputs also have a label, and how many of these the reader had wrong; `arms`: the same by arm."""

    labels: int
    errors: int
    arms: tuple["ReaderAudit", ...] = ()

    @property
    def is_refuted(self) -> bool:
        """Whether the reader misreads too much, in all arms or in one, for its readings to count as the truth.

        One error may be a slip. Errors in one arm alone shift its comparisons, however many arms dilute their share.
        """
        return self.errors > max(1, AUDIT_LIMIT * self.labels) or any(arm.is_refuted for arm in self.arms)

    def describe(self) -> str:
        """'agrees with 79 of 80 labels', and the consequence if the audit fails."""
        agrees = f"agrees with {self.labels - self.errors} of {self.labels} labels"
        after = f"they correct it, or its readings count as unread if fewer than {MIN_LABELS} queries are labeled"
        return f"{agrees}, so {after}" if self.is_refuted else agrees


@dataclass(frozen=True)
class SettledDifference:
    """A difference of two arms, arm minus reference, of which labels of a sample settle the unread outputs.

    Attributes:
        difference: The estimate.
        low: The lower end of its interval.
        high: The upper end of its interval.
        p: Two-sided.
        slope: The weight of the proxy, from 0 (worthless) to 1.
        num_unread: The number of unread outputs.
        num_labels: The number of these whose labels were used.
    """

    difference: float
    low: float
    high: float
    p: float
    slope: float
    num_unread: int
    num_labels: int

    @property
    def coverage(self) -> str:
        """'60 of 114 unread labeled'."""
        return f"{self.num_labels:,} of {self.num_unread:,} unread labeled"

    def replace_in(self, result: PairedTestResult) -> PairedTestResult:
        """The result of a test with these numbers in place of its own. No single output says which scores moved."""
        moved = dict[str, Any](test=LABELS_TEST, right_to_wrong=None, wrong_to_right=None, is_identical=False)
        return replace(result, difference=self.difference, low=self.low, high=self.high, p=self.p, **moved)


def unread_flags(frame: DataFrame, metric: str) -> Flags:
    """[n]: whether the reader could not read an output, also where it has a label now."""
    if has_labels(frame, metric):
        return frame[LabelColumn.UNREAD.of(metric)].to_numpy(dtype=bool)
    column = unread_column(metric)
    return (frame[column].fillna("") != "").to_numpy() if column in frame else np.zeros(len(frame), dtype=bool)


def share_of_level(look: int, *, is_last: bool) -> float:
    """The share of the level that a look at labels may spend; those of all looks at a comparison sum to 1.

    A look, counted from 1, has half of what the looks before it left. The last look, at which no output of the
    comparison is unread, has all of it. So two looks have half of the level each, and a single one at everything has
    it whole.
    """
    return 2.0 ** (1 - look if is_last else -look)


def audit(score: Floats, label: Floats) -> ReaderAudit:
    """Compares the reader with labels. score, label: [n], NaN where an output was not read or has no label."""
    both = np.isfinite(score) & np.isfinite(label)
    return ReaderAudit(int(both.sum()), int(np.sum(score[both] != label[both])))


def settle(
    reference: LabeledArm,
    arm: LabeledArm,
    chosen: Flags,
    clusters: NDArray[Any],
    *,
    level: float = 0.95,
    audited: Flags | None = None,
) -> SettledDifference | None:
    """The difference of two arms by the labels of a sample.

    Args:
        reference: The outputs of the reference arm.
        arm: The outputs of the other arm, paired with it.
        chosen: [n], the pairs of the sample. It must be a random sample of queries, chosen without their outputs, in
            which every unread output was labeled, if only as "cannot tell".
        clusters: [n], labels; equal labels belong to one independent unit.
        level: The confidence level.
        audited: [n], the pairs of the sample in which every read output was labeled too, if the reader's errors are
            to be corrected. None: what was read is the truth.

    Returns:
        The estimate; None if fewer than MIN_LABELS clusters with an unread output are labeled and others are left. So
        it is with the audited pairs, if the reader's errors are to be corrected.
    """
    sides = reference, arm
    unread = reference.unread | arm.unread
    sampled = chosen & unread
    if len(unread) == 0:
        return None
    codes = cluster_codes(clusters)
    untold = any(
        np.isnan(_truth(side, audited))[chosen if audited is None else chosen | audited].any() for side in sides
    )
    ends = []
    for fill in (0.0, 1.0) if untold else (0.0,):
        truths = [
            np.nan_to_num(_truth(side, audited), nan=value) for side, value in zip(sides, (1 - fill, fill), strict=True)
        ]
        strata = _strata(sides, truths, sampled, audited)
        if any(not of.is_whole and of.num_labeled(codes) < MIN_LABELS for of in strata):
            return None
        ends.append(_end(strata, truths, codes, level))
    low, high = ends[0], ends[-1]
    near = low if low is high else end_next_to_zero(low, high)
    counts = [int(sum((side.unread & of).sum() for side in sides)) for of in (unread, sampled)]
    return SettledDifference(
        (low.difference + high.difference) / 2, low.low, high.high, near.p if near else 1.0, low.slope, *counts
    )


@dataclass(frozen=True, eq=False)
class SettledPairs:
    """Two arms with labels. The arguments of `settle`, and the share of the level that this look may spend."""

    reference: LabeledArm
    arm: LabeledArm
    chosen: Flags
    clusters: NDArray[Any]
    audited: Flags | None = None
    share: float = 1.0

    def estimate(self, level: float = 0.95) -> SettledDifference | None:
        """As `settle`, at the share of the level (Bonferroni)."""
        level, audited = 1 - (1 - level) * self.share, self.audited
        result = settle(self.reference, self.arm, self.chosen, self.clusters, level=level, audited=audited)
        return result and replace(result, p=min(1.0, result.p / self.share))

    def means(self, difference: float) -> tuple[float, float]:
        """The mean scores of reference and arm, which differ by the estimated difference."""
        nothing = LabeledArm(*[np.zeros(len(self.clusters))] * 3)
        reference, arm = (
            settle(nothing, side, self.chosen, self.clusters, audited=self.audited)
            for side in (self.reference, self.arm)
        )
        if arm:
            mean = arm.difference
        else:
            mean = reference.difference + difference if reference else float(self.arm.proxy.mean())
        return mean - difference, mean

    def corrected_interval(self, p: float, corrected: float, family: int) -> tuple[float, float]:
        """As `pairs.corrected_interval`."""
        result = self.estimate(1 - level_of_test(p, corrected, family))
        assert result is not None
        return result.low, result.high


def settled_pairs(
    reference: DataFrame, samples: DataFrame, pairs: Pairs, metric: str, reference_metric: str | None = None
) -> SettledPairs | None:
    """The labels of two frames with the columns `LabelColumn`. None without these, and if every output is read or
    labeled: the scores of the frames are then the truth, and the usual test is exact.

    Arguments are those of `pairs.align_pairs`. A baseline, the scores of `reference_metric`, is read whole.
    """
    if pairs.rows is None or pairs.strata:
        return None
    rows = [frame.iloc[places] for frame, places in zip((reference, samples), pairs.rows, strict=True)]
    if not any(has_labels(own, metric) for own in (rows[1:] if reference_metric else rows)):
        return None
    sides = [_read_arm(pairs.reference) if reference_metric else labeled_arm(rows[0], metric)]
    sides.append(labeled_arm(rows[1], metric))
    one, other = sides
    if one is None or other is None:
        return None
    return _settled_pairs(one, other, pairs.clusters)


_Side = tuple[LabeledArm, Flags, Flags, NDArray[np.int64]]
"""An arm, whether each sample is chosen and audited, and the look of each."""


def _settled_pairs(one: _Side, other: _Side, clusters: NDArray[Any]) -> SettledPairs | None:
    """The labels of two sides. None if the usual test is exact, and no earlier look spent a part of its level."""
    chosen, audited = one[1] & other[1], one[2] & other[2]
    looks = np.maximum(np.where(one[0].unread, one[3], 1), np.where(other[0].unread, other[3], 1))
    is_last = not ((one[0].unread | other[0].unread) & ~chosen).any()
    share = share_of_level(int(looks.max(initial=1)), is_last=is_last)
    is_labeled = not any((arm.unread & np.isnan(arm.label)).any() for arm in (one[0], other[0]))
    if is_labeled and share == 1 and not audited.any():
        return None
    return SettledPairs(one[0], other[0], chosen, clusters, audited if audited.any() else None, share)


def has_labels(rows: DataFrame, metric: str) -> bool:
    """Whether samples come from a run with labels; in a frame of two runs, one of them may have none."""
    column = LabelColumn.UNREAD.of(metric)
    return column in rows and bool(rows[column].notna().all())


def labeled_arm(rows: DataFrame, metric: str) -> _Side | None:
    """The samples of an arm that have a score, with their labels. None if a run without labels has unread outputs."""
    if not has_labels(rows, metric):
        return None if unread_flags(rows, metric).any() else _read_arm(rows[metric].to_numpy(dtype=np.float64))
    unread, label, proxy, chosen, audited, looks = (
        rows[column.of(metric)].to_numpy(dtype=dtype) for column, dtype in zip(LabelColumn, "?dd??l", strict=True)
    )
    return LabeledArm(np.where(unread, np.nan, proxy), proxy, label), chosen, audited, looks


def _read_arm(score: Floats) -> _Side:
    """An arm whose outputs are all read."""
    every = np.ones(len(score), dtype=bool)
    return LabeledArm(score, score, score), every, every, np.ones(len(score), dtype=np.int64)


def settled_mean(rows: DataFrame, metric: str, level: float = 0.95) -> SettledDifference | None:
    """The mean score of an arm by its labels. None without labels, or if every output is read or labeled."""
    own = labeled_arm(rows, metric) if has_labels(rows, metric) else None
    if own is None:
        return None
    pairs = _settled_pairs(_read_arm(np.zeros(len(rows))), own, rows[UNIT].to_numpy())
    return pairs.estimate(level) if pairs else None


def _truth(side: LabeledArm, audited: Flags | None) -> Floats:
    """[n], the labels of unread outputs, and the score of read ones or, in audited pairs, their labels."""
    by_label = side.unread if audited is None else side.unread | audited
    return np.where(by_label, side.label, side.score)


@dataclass(frozen=True, eq=False)
class OutputStratum:
    """A part of the differences: what the proxy and the labels say of it, the pairs that have it, and those labeled."""

    proxy: Floats
    truth: Floats
    pairs: Flags
    sampled: Flags

    @property
    def is_whole(self) -> bool:
        return not (self.pairs & ~self.sampled).any()

    def num_labeled(self, codes: Codes) -> int:
        """The number of clusters with a label. codes: [n], the cluster of each pair."""
        return len(np.unique(codes[self.sampled]))


def _strata(
    sides: Sequence[LabeledArm], truths: Sequence[Floats], sampled: Flags, audited: Flags | None
) -> list[OutputStratum]:
    """The unread outputs, and the read ones: all of these count as labeled without an audit that refutes the reader."""
    unread, read = [side.unread for side in sides], [~side.unread for side in sides]
    every = np.ones(len(sampled), dtype=bool)
    reader = _part([side.score for side in sides], read)
    return [
        OutputStratum(_part([s.proxy for s in sides], unread), _part(truths, unread), unread[0] | unread[1], sampled),
        OutputStratum(reader, _part(truths, read), every, every if audited is None else audited),
    ]


def _end(strata: Sequence[OutputStratum], truths: Sequence[Floats], codes: Codes, level: float) -> SettledDifference:
    """The estimate with one value for each output of the sample."""
    left = [stratum for stratum in strata if not stratum.is_whole]
    if not left:
        test = paired_test(Pairs(truths[0], truths[1], codes), level)
        return SettledDifference(test.difference, test.low, test.high, test.p, 0.0, 0, 0)
    values, slopes = zip(*map(corrected_values, strata), strict=True)
    e = np.sum(values, axis=0)
    sums, sizes = cluster_sums(e, codes)
    clusters = [stratum.num_labeled(codes) for stratum in left]
    rare = sum(of.pairs.mean() ** 2 / (c * (c - 1)) for of, c in zip(left, clusters, strict=True))
    difference, error = float(e.mean()), (mean_variance(sums, sizes, float(np.var(e))) + rare) ** 0.5
    freedom = max(1.0, min(effective_clusters(sizes), *clusters) - 1)
    half = float(scipy.special.stdtrit(freedom, 0.5 + level / 2)) * error
    p = float(2 * scipy.special.stdtr(freedom, -abs(difference) / error))
    return SettledDifference(difference, difference - half, difference + half, p, slopes[0], 0, 0)


def corrected_values(of: OutputStratum) -> tuple[Floats, float]:
    """([n] values whose mean estimates that of `truth`, which is used in sampled pairs only; the proxy's slope)."""
    if of.is_whole:
        return of.truth, 1.0
    u, m = int(of.pairs.sum()), int(of.sampled.sum())
    if not m:
        return of.proxy, 1.0
    slope, proxy, truth = 1.0, of.proxy[of.sampled], of.truth[of.sampled]
    if m >= MIN_LABELS and (spread := float(np.var(proxy, ddof=1))) > 0:
        slope = float(np.clip(np.cov(proxy, truth)[0, 1] / spread, 0, 1))
    residual = np.where(of.sampled, of.truth - slope * of.proxy, 0.0)
    mean = float(residual[of.sampled].mean())
    own = of.sampled * (u / m) * (residual - mean) * (m / max(1, m - 1)) ** 0.5
    return slope * of.proxy + of.pairs * mean + own, slope


def _part(values: Sequence[Floats], masks: Sequence[Flags]) -> Floats:
    """[n]: the part of the difference that lies in the outputs of these masks."""
    reference, arm = (np.where(mask, value, 0.0) for mask, value in zip(masks, values, strict=True))
    return arm - reference
