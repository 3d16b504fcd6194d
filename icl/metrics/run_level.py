"""Run-level statistics as one number per sample, so that tables, intervals and paired tests can treat them as scores.

A statistic T of n samples becomes one pseudo-value per sample: T plus the influence of the sample on it.

    ratio of sums    T = sum a / sum b              c_i = T + n (a_i - T b_i) / sum b
    area under ROC   T = mean of the placements V   c_i = T + n/m (V_i - T), m the size of the sample's class
                                                    (DeLong et al. 1988)
    macro F1         T = mean of T_l over k labels  c_i = T + n/k sum_l (a_il - T_l b_il) / sum b_l
    groups           a ratio over groups            each sample of a group has the group's number, times
                                                    n / (number of groups x size of the group)
    any other        T of all samples, T_B without  c_i = T + h_i - mean h, h_i = (n - b)/b (T - T_B), b the size of
                     the block B of sample i        the block: the jackknife

These numbers average to T exactly, and the variance of their clusters is that of T to first order. They are not scores
of single samples and may leave [0, 1]. They also carry the statistic itself (`sufficient_statistics`): tests of two
arms and bounds without spread use it. Plain numbers are taken as scores whose mean is the statistic.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from icl.metrics.base import ScoredSample
from icl.metrics.sufficient_statistics import (
    RunLevelValues,
    SufficientStatistics,
    macro_f1_statistics,
    mean_statistics,
    ratio_statistics,
    roc_auc_statistics,
    statistics_of,
)

Numbers = Sequence[float]
SampleValues = list[float | None]


def ratio(
    numerators: Numbers, denominators: Numbers, worst: Numbers | None = None, best: Numbers | None = None
) -> SampleValues:
    """Numbers that average to sum(numerators) / sum(denominators).

    Args:
        numerators: One per sample.
        denominators: One per sample.
        worst: (numerator, denominator) of a sample that lowers the ratio as far as one sample can. By default 0 of an
            average nonzero denominator.
        best: The same for the highest ratio. By default all of an average nonzero denominator.

    Returns:
        One number per sample; all None if the denominators sum to 0.
    """
    over, under = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    return _values(ratio_statistics(over, under, worst, best))


def mean(scores: Sequence[float | None], low: float = 0.0, high: float = 1.0) -> SampleValues:
    """The scores themselves, where the statistic is their mean. `low` and `high` bound a score."""
    numbers = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return RunLevelValues(scores, mean_statistics(numbers, low, high))


def roc_auc(scores: Numbers, is_positive: Sequence[bool]) -> SampleValues:
    """Numbers that average to the area under the ROC curve, ties half; all None if a class is missing."""
    return _values(
        roc_auc_statistics(np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=bool)),
    )


def macro_f1(predicted: NDArray[np.intp], gold: NDArray[np.intp], labels: int) -> SampleValues:
    """Numbers that average to the mean F1 of all labels that are predicted or gold; all None if there are none.

    Args:
        predicted: [n], a label's number in 0..labels-1, or -1 for no label.
        gold: [n], likewise.
        labels: The number of labels.
    """
    return _values(macro_f1_statistics(predicted, gold, labels))


def jackknife(sizes: Sequence[int], whole: float, without: Sequence[float]) -> list[float]:
    """Numbers that average to a statistic of any form, by the delete-a-block jackknife.

    With blocks of one sample they are T + (n - 1) (mean of T_-j - T_-i), whose spread is the jackknife's standard error
    (Efron and Tibshirani 1993, ch. 11).

    Args:
        sizes: The number of samples of each block.
        whole: The statistic T of all samples.
        without: The statistic without each block.

    Returns:
        The number of each block, which all its samples have.
    """
    counts, left = np.asarray(sizes, dtype=np.float64), np.asarray(without, dtype=np.float64)
    influence = (counts.sum() - counts) / counts * (whole - left)
    numbers: list[float] = (whole + influence - np.average(influence, weights=counts)).tolist()
    return numbers


def mean_over_groups(
    samples: Sequence[ScoredSample], score: Callable[[Sequence[ScoredSample]], float | None]
) -> SampleValues:
    """Numbers that average to the mean score of the groups.

    Args:
        samples: The samples of a cell. A sample without a group is a group of its own.
        score: Maps the samples of a group to its score, or to None if the group has no part in the mean. Groups with
            a failed sample have none.
    """

    def as_ratio(members: Sequence[ScoredSample]) -> tuple[float, float] | None:
        value = score(members)
        return None if value is None else (value, 1.0)

    return ratio_over_groups(samples, as_ratio)


def ratio_over_groups(
    samples: Sequence[ScoredSample], counts: Callable[[Sequence[ScoredSample]], tuple[float, float] | None]
) -> SampleValues:
    """Numbers that average to sum(numerators) / sum(denominators) over groups.

    Args:
        samples: The samples of a cell. A sample without a group is a group of its own.
        counts: Maps the samples of a group to (numerator, denominator), or to None if the group has no part. Groups
            with a failed sample have none.
    """
    groups: list[list[int]] = []
    pairs: list[tuple[float, float]] = []
    for indices in group_indices(samples).values():
        members = [samples[i] for i in indices]
        pair = counts(members) if all(member.score is not None for member in members) else None
        if pair is not None:
            groups.append(indices)
            pairs.append(pair)
    shares = ratio([over for over, _ in pairs], [under for _, under in pairs])
    members_in_all = sum(map(len, groups))
    values: SampleValues = [None] * len(samples)
    for indices, share in zip(groups, shares, strict=True):
        for i in indices:
            values[i] = None if share is None else share * members_in_all / (len(groups) * len(indices))
    return RunLevelValues(values, statistics_of(shares).at([indices[0] for indices in groups], len(samples)))


def group_indices(samples: Sequence[ScoredSample]) -> dict[str, list[int]]:
    """Name of each group -> indices of its samples, in the order of the run."""
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        name = f"query {sample.query}" if sample.group is None else f"group {sample.group}"
        groups.setdefault(name, []).append(i)
    return groups


def on_scored_samples(
    samples: Sequence[ScoredSample], compute: Callable[[Sequence[ScoredSample]], SampleValues]
) -> SampleValues:
    """`compute` of the samples that have a score, and None for the others."""
    indices = [i for i, sample in enumerate(samples) if sample.score is not None]
    scored = compute([samples[i] for i in indices])
    values: SampleValues = [None] * len(samples)
    for i, value in zip(indices, scored, strict=True):
        values[i] = value
    return RunLevelValues(values, statistics_of(scored).at(indices, len(samples)))


def _values(statistics: SufficientStatistics) -> SampleValues:
    pseudo_values = statistics.pseudo_values()
    numbers: SampleValues = [None] * statistics.rows.shape[0] if pseudo_values is None else list(pseudo_values.tolist())
    return RunLevelValues(numbers, statistics)
