"""The base protocols of metrics. A metric compares one generation with its example.

Most statistics of a run are the mean of its samples' scores. Others are not, such as F1, the area under a curve, or a
pair that counts only if both answers are right. Such a metric also has `run_level` (see `icl.metrics.run_level`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from icl.types import Example, Generation

Better = Literal["higher", "lower", "neither"]

SCORING_REVISION = 3
"""Raise it when a built-in metric may score a stored answer differently: `icl run` then scores it again."""


@runtime_checkable
class Metric(Protocol):
    """A component of kind `metric`: a pure function of a generation and its example.

    A metric with `accuracy = True` gives 1 for a right answer and 0 for any other. Tables call its mean an accuracy. It
    also decides whether an answer is right if another score cannot. Optional attributes: `label`, the name of the
    metric in tables, in place of the component's; `reads_numbers = True` if it scores only outputs that state a number
    and gold answers that are numbers, so that plan and report count the others; `reads_answers = True` if its score
    depends on a reading of free text, so that outputs without a certain reading are unread (`icl.metrics.reading`).

    Attributes:
        better: Whether higher or lower scores are better.
    """

    better: ClassVar[Better]

    def score(self, generation: Generation, example: Example) -> float | None:
        """A score in [0, 1], or None if the metric does not apply to this example."""
        ...


@dataclass(frozen=True)
class ScoredSample:
    """One stored sample of a cell with its score.

    Attributes:
        score: The result of `Metric.score`. None if the sample failed or the metric does not apply.
        output: The answer of the model or of a baseline. None if only the score is known.
    """

    query: str
    score: float | None
    group: str | None = None
    output: str | None = None
    gold: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
