"""What a metric is: one generation against its example, a number in [0, 1] or None where it does not apply.

Most scores of a run are the mean of its samples' scores. Some are not: F1, an area under a curve, a pair that counts
only where both answers are right. A metric of that kind has `run_level` too (`RunLevelMetric`); `icl.metrics.run_level` has
the arithmetic that such metrics share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from icl.types import Example, Generation

Better = Literal["higher", "lower", "neither"]


@runtime_checkable
class Metric(Protocol):
    """A component of kind `metric`: pure, the same answer for the same pair. better: which way is good.

    One that says `accuracy = True` gives 1 for a right answer and 0 for any other: tables call its mean an accuracy,
    and by it an answer is right or wrong where the score looked at cannot say.
    """

    better: ClassVar[Better]

    def score(self, generation: Generation, example: Example) -> float | None:
        """In [0, 1]. None: this example has nothing that the metric could judge."""
        ...


@dataclass(frozen=True)
class ScoredSample:
    """One sample of a cell as a run keeps it. score: what `score` gave, None where it failed or does not apply.

    output: what was said, by the model or by a baseline of its demonstrations; None where only the score is known.
    """

    query: str
    score: float | None
    group: str | None = None
    output: str | None = None
    gold: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class RunLevelMetric(Metric, Protocol):
    """A metric of a whole run. Its sample scores are what the statistic is made of, not what a table shows."""

    def run_level(self, samples: Sequence[ScoredSample]) -> Sequence[float | None]:
        """A number for each sample of one cell, in their order, whose mean is the statistic of the cell.

        They are the statistic's linearization (see `icl.metrics.run_level`), from which its variance over clusters is
        computed. Those of that module also know what the statistic is on other samples, which tests of pairs and
        bounds want; plain numbers are taken for scores whose mean it is. None: the sample has no part in it.
        A statistic of one's own is `Summed(numbers, Sums(rows, of, …))` of `icl.metrics.sufficient_statistics`: the sums of its
        rows give it, for any choice of samples; `macro_f1` shows one.
        """
        ...
