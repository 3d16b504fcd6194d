"""One tested comparison of two arms, and its result in words."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from experiments.stats.answer_forms import wrapping_note
from experiments.stats.arms import deciding_digests
from experiments.stats.bounds import Bounds, Interval, is_wide, labeled_test
from experiments.stats.formatting import (
    format_count,
    format_interval,
    format_p,
    format_range,
    format_share,
    format_signed,
)
from experiments.stats.pairs import (
    KEYS,
    PairedTestResult,
    Pairs,
    UnpairedError,
    align_pairs,
)
from experiments.stats.settled import LABELED_QUERIES
from experiments.stats.significance import SIGNIFICANCE_LEVEL, holm
from icl import Better, DataFrame

Verdict = Literal["better", "worse", "differs", "equal", "undecided", "open", "unpaired"]
"""'differs' is for metrics without a good direction, 'open' for a difference that is not significant.

'undecided' is one that unread outputs could make significant. 'equal' needs a margin (`experiments.stopping.rule`).
"""

Topic = Literal[
    "Answers", "Comparisons", "ICL gain", "Retrieval", "Vote", "Decoding", "Intervention", "Answer form", "By column",
    "Claims",
]  # fmt: skip


@dataclass(frozen=True)
class ArmComparison:
    """A comparison of an arm with another one.

    Attributes:
        subject: The task and setting, in words.
        arm: The label of the arm.
        against: The label of the arm that it is compared with.
        result: The test, or None if the comparison was refused.
        p: The p-value; `correct_topics` replaces it by the corrected one, and the interval of `result` by the one that
            agrees with it. NaN if the arm answers as the other one by
            construction, so that there is nothing to test.
        n: The number of queries, groups and seeds, in words.
        pooled: The settings that were pooled, in words.
        mean: The mean score of the arm.
        reference_mean: The mean score of the other arm.
        also: The untested difference under a second metric.
        refused: Why the comparison was refused.
        wrapping: A sentence if the two arms write their answers differently and all of them are read, else ''.
        better: The good direction of the metric.
        family: The number of comparisons of the topic that p is corrected for.
        topics: The number of topics that share the level.
        labels: How many unread outputs were labeled, in words; '' if none had to be.
        decided: What determines the answers of both arms. Comparisons with equal values are one hypothesis.
        interval: (p, corrected p, size of the family) -> the interval that agrees with the corrected p; None keeps it.
        bounds: What unread outputs leave open; None if every output is read.
    """

    subject: str
    arm: str
    against: str
    result: PairedTestResult | None
    p: float = 1.0
    n: str = ""
    pooled: str = ""
    mean: float = 0.0
    reference_mean: float = 0.0
    also: float | None = None
    refused: str = ""
    wrapping: str = ""
    better: Better = "higher"
    family: int = 1
    topics: int = 1
    labels: str = ""
    decided: Hashable = field(default_factory=object, compare=False)
    interval: Interval | None = field(default=None, compare=False, repr=False)
    bounds: Bounds | None = None

    @property
    def verdict(self) -> Verdict:
        if self.result is None:
            return "unpaired"
        favorable_p = math.nan if self.bounds is None else self.bounds.favorable_p
        return verdict_of(self.p, self.result.difference, self.better, favorable_p)

    @property
    def certain_mean(self) -> float:
        """The mean score of the arm that no reading of its unread outputs can make worse."""
        return self.mean if self.bounds is None else self.bounds.arm[self.better == "lower"]

    @property
    def unread(self) -> str:
        """'114 of 400 outputs unread; `icl label` settles it with labels of about 60 queries', or ''."""
        if self.bounds is None:
            return ""
        outputs = (
            f"{round(self.bounds.unread * self.bounds.num_outputs):,} of {self.bounds.num_outputs:,} outputs unread"
        )
        needs_labels = self.verdict == "undecided"
        return outputs + (
            f"; `icl label` settles it with labels of about {min(LABELED_QUERIES, self.bounds.queries)} queries"
            * needs_labels
        )

    @property
    def identical(self) -> bool:
        """Whether no pair differs."""
        return self.result is not None and self.result.is_identical

    @property
    def by_construction(self) -> bool:
        """Whether both arms give the same answers with every model, so that the comparison is not tested."""
        return self.result is not None and math.isnan(self.p)

    @property
    def numbers(self) -> str:
        """Difference, 95 % interval, p and n: '+.021 [−.004, +.046], p = .03 (Holm over 4), n = 200 x 3 seeds'.

        If more than a few outputs are unread, the difference is a range. Their number comes last.
        """
        if self.result is None or self.by_construction:
            return ""
        interval = format_interval(self.result.low, self.result.high)
        lower = "; lower is better" if self.better == "lower" else ""
        shares = [f"Holm over {self.family}"] if self.family > 1 else []
        shares += [f"{self.topics} topics"] if self.topics > 1 else []
        family = f" ({', '.join(shares)})" if shares else ""
        labels = f", {self.labels}" if self.labels else ""
        p = "" if self.verdict == "undecided" else f"{format_p(self.p)}{family}, "
        return "; ".join(filter(None, [f"{self.size} {interval}, {p}{self.n}{labels}{lower}", self.unread]))

    @property
    def size(self) -> str:
        """The difference, such as '+.021', or its range '−.200 to +.370' over the readings of unread outputs."""
        if self.bounds is not None and (is_wide(self.bounds.unread) or self.verdict == "undecided"):
            return " to ".join(map(format_signed, (self.bounds.low, self.bounds.high)))
        return format_signed(self.result.difference) if self.result else ""

    @property
    def means(self) -> str:
        """'.862 against .465', or '.285–.855 against .465' with unread outputs."""
        return f"{self.arm_mean} against {self.against_mean}"

    @property
    def arm_mean(self) -> str:
        """The mean score of the arm, or its range."""
        return format_range(self.bounds.arm) if self.bounds and is_wide(self.bounds.unread) else format_share(self.mean)

    @property
    def against_mean(self) -> str:
        """The mean score of the reference, or its range."""
        return (
            format_range(self.bounds.reference)
            if self.bounds and is_wide(self.bounds.unread)
            else format_share(self.reference_mean)
        )

    @property
    def side(self) -> str:
        """Whether the arm's score is 'above' or 'below' the other one."""
        return "above" if self.result is not None and self.result.difference > 0 else "below"

    @property
    def short(self) -> str:
        """'+.021, p = .03'."""
        if self.by_construction:
            return "the same by construction"
        if self.verdict == "undecided":
            return f"{self.size}, undecided"
        return f"{self.size}, {format_p(self.p)}" if self.result else self.refused


def verdict_of(p: float, difference: float, better: Better = "higher", favorable_p: float = math.nan) -> Verdict:
    """The verdict that a corrected p and a difference allow.

    Args:
        p: The corrected p; NaN if the comparison was not tested.
        difference: The mean difference, arm minus reference.
        better: The good direction of the metric.
        favorable_p: The smallest p that unread outputs allow (`bounds.Bounds`); NaN if every output is read.
    """
    if not p <= SIGNIFICANCE_LEVEL or difference == 0:  # NaN: not tested
        is_undecided = favorable_p <= SIGNIFICANCE_LEVEL and not math.isnan(p)
        return "undecided" if is_undecided else "open"
    if better == "neither":
        return "differs"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def compare_arms(
    subject: str,
    arm: str,
    against: str,
    frames: tuple[DataFrame, DataFrame],
    metric: str,
    *,
    on: Sequence[str] = (),
    reference_metric: str | None = None,
    pooled: str = "",
    also: str | None = None,
    better: Better = "higher",
    level: float = 0.95,
) -> ArmComparison:
    """Tests the second frame against the first, paired by query, seed and `on`. A refused comparison is not raised."""
    reference, samples = frames
    try:
        pairs = align_pairs(
            reference, samples, metric, [*KEYS, *on], names=(against, arm), reference_metric=reference_metric
        )
        tested = labeled_test(frames, pairs, metric, reference_metric, level=level, names=(against, arm))
    except UnpairedError as error:
        return ArmComparison(subject, arm, against, None, refused=str(error), better=better)
    result, bounds, interval, means, labels = tested
    decided = deciding_digests(reference), deciding_digests(samples)
    decided_pair = None if reference_metric or None in decided else decided
    return ArmComparison(
        subject,
        arm,
        against,
        result,
        p=math.nan if decided_pair and decided[0] == decided[1] else result.p,
        n=_units(samples, pairs, result),
        pooled=pooled,
        mean=means[1],
        reference_mean=means[0],
        also=_second_difference(reference, samples, pairs, also) if also and also != metric else None,
        wrapping="" if bounds or labels else wrapping_note(reference, samples, (against, arm)),
        better=better,
        decided=(decided_pair, pooled) if decided_pair else object(),
        interval=interval,
        labels=labels,
        bounds=bounds,
    )


def correct_topics(trials: Mapping[Topic, Sequence[ArmComparison]]) -> dict[Topic, list[ArmComparison]]:
    """The comparisons with p and interval corrected over all topics (`significance.holm`), and the size of the family.

    Comparisons of arms that are the same by construction are in no family. Equal comparisons are one hypothesis.
    """
    hypotheses: dict[tuple[Topic, Hashable], float] = {}
    for topic, own in trials.items():
        for t in own:
            if t.result is not None and not t.by_construction:
                hypotheses.setdefault((topic, t.decided), t.p)
    sizes = Counter(topic for topic, _ in hypotheses)
    adjusted = holm(list(hypotheses.values()), [topic for topic, _ in hypotheses])
    corrected = dict(zip(hypotheses, map(float, adjusted), strict=True))
    return {
        topic: [
            _corrected(t, corrected.get((topic, t.decided), t.p), max(1, sizes[topic]), max(1, len(sizes))) for t in own
        ]
        for topic, own in trials.items()
    }


def _corrected(t: ArmComparison, p: float, family: int, topics: int) -> ArmComparison:
    result = t.result
    if result is not None and t.interval is not None and not t.by_construction:
        low, high = t.interval(t.p, p, family * topics)
        result = replace(result, low=low, high=high)
    return replace(t, result=result, p=p, family=family, topics=topics)


def _second_difference(reference: DataFrame, samples: DataFrame, pairs: Pairs, metric: str) -> float | None:
    """The mean difference under another metric on the same pairs; None if no pair has both scores."""
    if metric not in samples:
        return None
    theirs, mine = (frame[metric].to_numpy(dtype=float, na_value=math.nan) for frame in (reference, samples))
    assert pairs.rows is not None
    differences = mine[pairs.rows[1]] - theirs[pairs.rows[0]]
    both = differences[np.isfinite(differences)]
    return float(both.mean()) if len(both) else None


def _units(samples: DataFrame, pairs: Pairs, result: PairedTestResult) -> str:
    """The numbers of queries, groups and seeds of the pairs, such as 'n = 200 in 57 groups x 3 seeds'."""
    assert pairs.rows is not None
    paired = samples.iloc[pairs.rows[1]]
    queries, seeds = paired["query"].nunique(), paired["seed"].nunique()
    groups = f" in {format_count(result.clusters, 'group')}" if result.clusters < queries else ""
    return f"n = {queries:,}{groups}{f' x {seeds} seeds' if seeds > 1 else ''}"
