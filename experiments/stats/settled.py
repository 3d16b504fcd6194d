"""The difference of two arms if some outputs could not be read, from labels of a random sample of queries.

Two-phase sampling with a regression estimator (Cochran, Sampling Techniques, ch. 12), known as prediction-powered
inference with power tuning (Angelopoulos et al., Science 2023; Angelopoulos, Duchi and Zrnic 2023, PPI++). A proxy, such
as a judge model or the rules of `lenient`, scores every output. The labels of a few measure how wrong it is.

    g_i   the part of the difference of pair i that lies in its unread outputs, by the proxy;  y_i  the same by labels
    B_i   the part that was read: an unread output counts 0
    k     slope of y on g over the labelled pairs, within 0 and 1; 1 with fewer than MIN_LABELS
    r_i = y_i - k g_i,   rbar = mean of r over the labelled pairs
    e_i = B_i + k g_i + U_i rbar + S_i (u / m) (r_i - rbar) sqrt(m / (m - 1))
    difference = mean e,   its variance that of clustered means (`intervals.mean_variance`)

u pairs have an unread output (U_i = 1), and m of these are labelled (S_i = 1). A poor proxy makes the interval wider,
never wrong. Student's t has the fewer degrees of freedom of the clusters and of the labelled clusters. Once everything
is labelled, it is the exact paired test of the labels.

If the reader errs (`ReaderAudit`), the outputs that it read are a second stratum: g_i is the reader's part of the
difference, and y_i what people say of the same outputs.

A label may be "cannot tell". Both ways to fill it are computed, and the interval covers both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.intervals import Floats, cluster_codes, cluster_sums, mean_variance, t_quantile
from experiments.stats.pairs import Pairs, paired_test

Flags = NDArray[np.bool_]

MIN_LABELS = 20
"""With fewer labelled pairs there is no estimate: its intervals would cover too little (.93 of 95 % intervals at 20)."""
AUDIT_LIMIT = 0.02
"""The share of read outputs that the reader may misread before they are corrected too."""


@dataclass(frozen=True, eq=False)
class LabelledArm:
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
    """How many read outputs also have a label, and how many of these the reader had wrong."""

    labels: int
    errors: int

    @property
    def is_refuted(self) -> bool:
        """Whether the reader misreads too much for its readings to count as the truth."""
        return self.errors > AUDIT_LIMIT * self.labels

    def describe(self) -> str:
        """'the reader agrees with 79 of 80 labels', and what follows if that is too few; '' without labels."""
        if not self.labels:
            return ""
        agrees = f"the reader agrees with {self.labels - self.errors} of {self.labels} labels"
        return f"{agrees}, so what it read is corrected by them too" if self.is_refuted else agrees


@dataclass(frozen=True)
class SettledDifference:
    """A difference of two arms, arm minus reference, of which labels of a sample settle the unread outputs.

    Attributes:
        difference: The estimate.
        low: The lower end of its interval.
        high: The upper end of its interval.
        p: Two-sided.
        slope: The weight of the proxy, from 0 (worthless) to 1.
        unread: The number of unread outputs.
        labelled: The number of these whose labels were used.
    """

    difference: float
    low: float
    high: float
    p: float
    slope: float
    unread: int
    labelled: int

    @property
    def coverage(self) -> str:
        """'60 of 114 unread labelled'."""
        return f"{self.labelled:,} of {self.unread:,} unread labelled"


def audit(score: Floats, label: Floats) -> ReaderAudit:
    """Compares the reader with labels. score, label: [n], NaN where an output was not read or has no label."""
    both = np.isfinite(score) & np.isfinite(label)
    return ReaderAudit(int(both.sum()), int(np.sum(score[both] != label[both])))


def settle(
    reference: LabelledArm,
    arm: LabelledArm,
    chosen: Flags,
    clusters: NDArray[Any],
    level: float = 0.95,
    audited: Flags | None = None,
) -> SettledDifference | None:
    """The difference of two arms by the labels of a sample.

    Args:
        reference: The outputs of the reference arm.
        arm: The outputs of the other arm, paired with it.
        chosen: [n], the pairs of the sample. It must be a random sample of queries, chosen without their outputs, in
            which every unread output was labelled, if only as "cannot tell".
        clusters: [n], labels; equal labels belong to one independent unit.
        level: The confidence level.
        audited: [n], the pairs of the sample in which every read output was labelled too, if the reader's errors are
            to be corrected. None: what was read is the truth.

    Returns:
        The estimate; None if fewer than MIN_LABELS pairs with an unread output are labelled and others are left.
    """
    sides = reference, arm
    unread = reference.unread | arm.unread
    sampled = chosen & unread
    if len(unread) == 0 or (sampled.sum() < MIN_LABELS and (unread & ~chosen).any()):
        return None
    untold = any(np.isnan(_truth(side, audited))[sampled].any() for side in sides)
    ends = []
    for fill in (0.0, 1.0) if untold else (0.0,):
        truths = [
            np.nan_to_num(_truth(side, audited), nan=value) for side, value in zip(sides, (1 - fill, fill), strict=True)
        ]
        ends.append(_end(sides, truths, unread, sampled, audited, cluster_codes(clusters), level))
    low, high = ends[0], ends[-1]
    p = low.p if low is high or low.difference > 0 else high.p if high.difference < 0 else 1.0
    counts = [int(sum((side.unread & of).sum() for side in sides)) for of in (unread, sampled)]
    return SettledDifference((low.difference + high.difference) / 2, low.low, high.high, p, low.slope, *counts)


def _truth(side: LabelledArm, audited: Flags | None) -> Floats:
    """[n], the labels of unread outputs, and the score of read ones or, in audited pairs, their labels."""
    by_label = side.unread if audited is None else side.unread | (audited & np.isfinite(side.label))
    return np.where(by_label, side.label, side.score)


def _end(
    sides: tuple[LabelledArm, LabelledArm],
    truths: list[Floats],
    unread: Flags,
    sampled: Flags,
    audited: Flags | None,
    codes: NDArray[np.intp],
    level: float,
) -> SettledDifference:
    """The estimate with one value for each output of the sample."""
    from scipy.special import stdtr, stdtrit

    masks = [side.unread for side in sides]
    strata = [(_part([s.proxy for s in sides], masks), _part(truths, masks), unread, sampled)]
    read = [~mask for mask in masks]
    known = _part([s.score for s in sides], read)
    if audited is not None:
        strata.append((known, _part(truths, read), read[0] | read[1], audited & (read[0] | read[1])))
        known = np.zeros(len(unread))
    left = [(stratum & ~labelled).any() for _, _, stratum, labelled in strata]
    if not any(left):
        test = paired_test(Pairs(truths[0], truths[1], codes), level)
        return SettledDifference(test.difference, test.low, test.high, test.p, 0.0, 0, 0)
    values, slopes = zip(*(corrected_values(*stratum) for stratum in strata), strict=True)
    e = known + np.sum(values, axis=0)
    sums, sizes = cluster_sums(e, codes)
    difference, error = float(e.mean()), mean_variance(sums, sizes, float(np.var(e))) ** 0.5
    labelled_clusters = min(len(np.unique(codes[strata[i][3]])) for i, has_left in enumerate(left) if has_left)
    freedom = max(1, min(len(sizes), labelled_clusters) - 1)
    half = max(t_quantile(sizes, level), float(stdtrit(freedom, 0.5 + level / 2))) * error
    p = float(2 * stdtr(freedom, -abs(difference) / error)) if error else float(difference == 0)
    return SettledDifference(difference, difference - half, difference + half, p, slopes[0], 0, 0)


def _part(values: list[Floats], masks: list[Flags]) -> Floats:
    """[n]: the part of the difference that lies in the outputs of these masks."""
    reference, arm = (np.where(mask, value, 0.0) for mask, value in zip(masks, values, strict=True))
    return arm - reference


def corrected_values(proxy: Floats, truth: Floats, stratum: Flags, labelled: Flags) -> tuple[Floats, float]:
    """A value per pair whose mean estimates the mean of `truth`, which is used only where pairs are labelled.

    Args:
        proxy: [n], a guess of each pair's truth; 0 outside the stratum.
        truth: [n], read where `labelled`.
        stratum: [n], the pairs whose truth is not 0.
        labelled: [n], a random sample of the stratum.

    Returns:
        ([n] pseudo-values, the slope of the proxy).
    """
    u, m = int(stratum.sum()), int(labelled.sum())
    if not m:
        return proxy, 1.0
    slope = 1.0
    if m >= MIN_LABELS and (spread := float(np.var(proxy[labelled], ddof=1))) > 0:
        slope = float(np.clip(np.cov(proxy[labelled], truth[labelled])[0, 1] / spread, 0, 1))
    residual = np.where(labelled, truth - slope * proxy, 0.0)
    mean = float(residual[labelled].mean())
    own = labelled * (u / m) * (residual - mean) * (m / max(1, m - 1)) ** 0.5
    return slope * proxy + stratum * mean + own, slope
