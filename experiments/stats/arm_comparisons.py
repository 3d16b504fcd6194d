"""One tested comparison of two arms, and its result in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from experiments.stats.answer_forms import wrapping_note
from experiments.stats.formatting import format_count, format_interval, format_p, format_share, format_signed
from experiments.stats.pairs import KEYS, PairedTestResult, UnpairedError, align_pairs, paired_test
from experiments.stats.significance import holm
from icl.metrics.base import Better

if TYPE_CHECKING:
    from pandas import DataFrame

SIGNIFICANCE_LEVEL = 0.05
Verdict = Literal["better", "worse", "differs", "equal", "open", "unpaired"]
"""'differs' is for metrics without a good direction, 'open' for a difference that is not significant.

'equal' needs a margin (`stopping_rule`).
"""


@dataclass(frozen=True)
class ArmComparison:
    """A comparison of an arm with another one.

    Attributes:
        subject: The task and setting, in words.
        arm: The label of the arm.
        against: The label of the arm that it is compared with.
        result: The test, or None if the comparison was refused.
        p: The p-value; `holm_corrected` replaces it by the corrected one.
        n: The number of queries, groups and seeds, in words.
        pooled: The settings that were pooled, in words.
        mean: The mean score of the arm.
        reference_mean: The mean score of the other arm.
        also: The untested difference under a second metric.
        refused: Why the comparison was refused.
        wrapping: A sentence if the two arms write their answers differently, else ''.
        better: The good direction of the metric.
        family: The number of comparisons that p is corrected for.
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

    @property
    def verdict(self) -> Verdict:
        if self.result is None:
            return "unpaired"
        return verdict_of(self.p, self.result.difference, self.better)

    @property
    def identical(self) -> bool:
        """Whether no pair differs."""
        return self.result is not None and self.result.is_identical

    @property
    def numbers(self) -> str:
        """Difference, 95 % interval, p and n: '+.021 [−.004, +.046], p = .03 (Holm over 4), n = 200 x 3 seeds'."""
        if self.result is None:
            return ""
        interval = format_interval(self.result.low, self.result.high)
        lower = "; lower is better" if self.better == "lower" else ""
        family = f" (Holm over {self.family})" if self.family > 1 else ""
        return f"{format_signed(self.result.difference)} {interval}, {format_p(self.p)}{family}, {self.n}{lower}"

    @property
    def means(self) -> str:
        """'.862 against .465'."""
        return f"{format_share(self.mean)} against {format_share(self.reference_mean)}"

    @property
    def side(self) -> str:
        """Whether the arm's score is 'above' or 'below' the other one."""
        return "above" if self.result is not None and self.result.difference > 0 else "below"

    @property
    def short(self) -> str:
        """'+.021, p = .03'."""
        return f"{format_signed(self.result.difference)}, {format_p(self.p)}" if self.result else self.refused


def verdict_of(p: float, difference: float, better: Better = "higher") -> Verdict:
    """The verdict that a corrected p and a difference allow.

    Args:
        p: The corrected p; NaN if the comparison was not tested.
        difference: The mean difference, arm minus reference.
        better: The good direction of the metric.
    """
    if not p <= SIGNIFICANCE_LEVEL or difference == 0:  # NaN: not tested
        return "open"
    if better == "neither":
        return "differs"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def compare_arms(
    subject: str,
    arm: str,
    against: str,
    frames: "tuple[DataFrame, DataFrame]",
    metric: str,
    *,
    on: Sequence[str] = (),
    reference_metric: str | None = None,
    pooled: str = "",
    also: str | None = None,
    better: Better = "higher",
) -> ArmComparison:
    """Tests the second frame against the first, paired by query, seed and `on`. A refused comparison is not raised."""
    reference, samples = frames
    try:
        pairs = align_pairs(
            reference, samples, metric, [*KEYS, *on], names=(against, arm), reference_metric=reference_metric
        )
        result = paired_test(pairs, names=(against, arm))
    except UnpairedError as error:
        return ArmComparison(subject, arm, against, None, refused=str(error), better=better)
    second = float(samples[also].mean() - reference[also].mean()) if also in samples and also != metric else None
    return ArmComparison(
        subject,
        arm,
        against,
        result,
        p=result.p,
        n=_units(samples, result),
        pooled=pooled,
        mean=float(pairs.arm.mean()),
        reference_mean=float(pairs.reference.mean()),
        also=second,
        wrapping=wrapping_note(reference, samples, (against, arm)),
        better=better,
    )


def holm_corrected(trials: Sequence[ArmComparison]) -> list[ArmComparison]:
    """The comparisons with p corrected by Holm over all that were tested, and their number as `family`."""
    tested = [t for t in trials if t.result is not None]
    adjusted = iter(holm([t.p for t in tested]))
    return [t if t.result is None else replace(t, p=float(next(adjusted)), family=len(tested)) for t in trials]


def _units(samples: "DataFrame", result: PairedTestResult) -> str:
    """The numbers of queries, groups and seeds, such as 'n = 200 in 57 groups x 3 seeds'."""
    queries, seeds = samples["query"].nunique(), samples["seed"].nunique()
    groups = f" in {format_count(result.clusters, 'group')}" if result.clusters < queries else ""
    return f"n = {queries:,}{groups}{f' x {seeds} seeds' if seeds > 1 else ''}"
