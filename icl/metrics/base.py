"""The base protocols of metrics, and the baselines of their scores. A metric compares one generation with its example.

Most statistics of a run are the mean of its samples' scores. Others are not, such as F1, the area under a curve, or a
pair that counts only if both answers are right. Such a metric also has `run_level` (see `icl.metrics.run_level`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from icl import Demo, Example, Generation, Query, normalize_text

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


# Answers from the same demonstrations without a model: the null hypothesis of in-context learning.
#
# With retrieved demonstrations, a model is often no better than the majority vote of their answers, and it copies the
# last one (Baldassini et al., 2024). So every score is reported with these baselines. Answers are compared by
# `normalize_text`. The prediction is the answer as the winning demonstration writes it. All are None without
# demonstrations.


Baseline = Callable[[Sequence[Demo], Query], str | None]


def vote(demos: Sequence[Demo], query: Query) -> str | None:
    """The most frequent answer. Ties go to the answer of the nearest demonstration (lowest rank)."""
    return _heaviest(demos, [1.0] * len(demos))


def weighted_vote(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer with the largest sum of max(score, 0). Ties go to the nearest demonstration; if all sums are zero,
    `vote`.
    """
    weights = [max(demo.score, 0.0) for demo in demos]
    return _heaviest(demos, weights) if any(weights) else vote(demos, query)


def last_copy(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer of the demonstration next to the query."""
    return demos[-1].example.answer if demos else None


def nearest_copy(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer of the retriever's best demonstration (rank 0); with equal ranks the later one in the prompt."""
    return demos[_nearest(demos)].example.answer if demos else None


BASELINES: Mapping[str, Baseline] = {
    "vote": vote,
    "weighted_vote": weighted_vote,
    "last_copy": last_copy,
    "nearest_copy": nearest_copy,
}


def _nearest(demos: Sequence[Demo]) -> int:
    return min(range(len(demos)), key=lambda i: (demos[i].rank, -i))


def _heaviest(demos: Sequence[Demo], weights: Sequence[float]) -> str | None:
    if not demos:
        return None
    totals: dict[str, float] = {}
    for demo, weight in zip(demos, weights, strict=True):
        totals[normalize_text(demo.example.answer)] = totals.get(normalize_text(demo.example.answer), 0.0) + weight
    top = max(totals.values())
    tied = [demo for demo in demos if totals[normalize_text(demo.example.answer)] == top]
    return tied[_nearest(tied)].example.answer
