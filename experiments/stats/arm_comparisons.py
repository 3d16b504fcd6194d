"""One tested statement of a run: what stands against what, how it came out, and its words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from experiments.stats.formatting import format_count, format_interval, format_p, format_share, format_signed
from experiments.stats.pairs import KEYS, PairedTestResult, UnpairedError, align_pairs, paired_test
from experiments.stats.significance import holm
from icl.metrics.base import Better

if TYPE_CHECKING:
    from pandas import DataFrame

SIGNIFICANCE_LEVEL = 0.05
Verdict = Literal["better", "worse", "differs", "open", "unpaired"]
"""'differs': of a metric of which neither way is good."""


@dataclass(frozen=True)
class ArmComparison:
    """`arm` against `against`. result is None where the comparison was refused, and `refused` says why.

    p: of the result, corrected once `corrected` has seen the family, of `family` comparisons. n, pooled: in words.
    also: the difference under a second metric, without a test. better: which way of the metric is good.
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
    better: Better = "higher"
    family: int = 1

    @property
    def verdict(self) -> Verdict:
        if self.result is None:
            return "unpaired"
        return verdict_of(self.p, self.result.difference, self.better)

    @property
    def identical(self) -> bool:
        """No pair differs."""
        return self.result is not None and self.result.is_identical

    @property
    def numbers(self) -> str:
        """'+.021 [−.004, +.046], p = .03 (Holm over 4), n = 200 x 3 seeds': difference, 95 % interval, p, n.

        Where lower is better that is told too.
        """
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
        """Where the arm's score lies: 'above' or 'below'."""
        return "above" if self.result is not None and self.result.difference > 0 else "below"

    @property
    def short(self) -> str:
        """'+.021, p = .03'."""
        return f"{format_signed(self.result.difference)}, {format_p(self.p)}" if self.result else self.refused


def verdict_of(p: float, difference: float, better: Better = "higher") -> Verdict:
    """What a corrected p and a difference allow to say of a metric of which this way is good."""
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
    """Tests the second frame against the first, paired by query, seed and `on`. A refusal is kept, not raised."""
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
        better=better,
    )


def holm_corrected(trials: Sequence[ArmComparison]) -> list[ArmComparison]:
    """The same, with p by Holm over all that were tested, and how many those are."""
    tested = [t for t in trials if t.result is not None]
    adjusted = iter(holm([t.p for t in tested]))
    return [t if t.result is None else replace(t, p=float(next(adjusted)), family=len(tested)) for t in trials]


def _units(samples: "DataFrame", result: PairedTestResult) -> str:
    """'n = 200 x 3 seeds', 'n = 200 in 57 groups': queries, what they are clustered by, seeds."""
    queries, seeds = samples["query"].nunique(), samples["seed"].nunique()
    groups = f" in {format_count(result.clusters, 'group')}" if result.clusters < queries else ""
    return f"n = {queries:,}{groups}{f' x {seeds} seeds' if seeds > 1 else ''}"
