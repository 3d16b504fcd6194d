"""How well a metric's verdicts agree with people's verdicts: the share of agreement, and Cohen's kappa (1960).

    kappa = (p_o - p_e) / (1 - p_e)

p_o is the share of equal verdicts, and p_e the share that is expected by chance from how often each side says right,
wrong or nothing. The interval of p_o is Wilson's. The interval of kappa is its image at the observed p_e, so
it does not shrink to a point if all verdicts agree.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.stats.formatting import format_estimate
from experiments.stats.intervals import wilson


@dataclass(frozen=True)
class LabelAgreement:
    """The agreement on some answers. Each triple is an estimate with its 95 % interval; kappa may be undefined."""

    n: int
    share: tuple[float, float, float]
    kappa: tuple[float, float, float] | None

    def describe(self) -> str:
        """One line with both numbers."""
        if self.kappa is None:
            return f"share {format_estimate(*self.share)}; Cohen's kappa is undefined: all verdicts are the same"
        return f"share {format_estimate(*self.share)}, Cohen's kappa {format_estimate(*self.kappa)}"


def measure_agreement(verdicts: Sequence[tuple[bool, bool | None]]) -> LabelAgreement:
    """The agreement of pairs (label of a person, verdict of the metric). None is a verdict of its own.

    Raises:
        ValueError: There is no pair.
    """
    n = len(verdicts)
    if not n:
        raise ValueError("agreement needs at least one pair of verdicts.")
    equal = sum(label == verdict for label, verdict in verdicts)
    share = (equal / n, *wilson(equal, n))
    labels, answers = Counter(label for label, _ in verdicts), Counter(verdict for _, verdict in verdicts)
    expected = sum(labels[value] * answers[value] for value in labels) / n**2
    if expected == 1:
        return LabelAgreement(n, share, None)
    kappa, low, high = ((value - expected) / (1 - expected) for value in share)
    return LabelAgreement(n, share, (kappa, low, high))
