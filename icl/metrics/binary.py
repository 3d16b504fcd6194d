"""Precision, recall and F1 of yes/no answers: POPE (Li et al., EMNLP 2023) with "yes" as the positive class.

    precision = true positives / predicted positives        recall = true positives / gold positives
    F1        = 2 true positives / (predicted positives + gold positives)

AMBER (Wang et al., 2311.07397) uses "no" as the positive class, because it cares about questions on absent objects:
`positive: no`. (Its script adds .001 to each denominator; this code does not.) An output that is neither yes nor no is
no positive answer. Each metric is computed over a whole cell. Precision without a positive answer is undefined. For the
accuracy use `lenient` (or `pope`, the released parser), for the yes-ratio `yes_ratio`.

Differs from the released code in outputs that are neither yes nor no (a yes for the script of POPE), and in the .001
that the script of AMBER adds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, normalize_text, on_scored_samples
from icl.metrics import asks_yes_no, ratio, read_yes_no

Class = Literal["yes", "no"]


@dataclass(frozen=True)
class YesNoMetric:
    """Base class of precision, recall and F1. A sample's score is 1 if its answer is the positive class."""

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    positive: Class = "yes"  # the positive class

    def score(self, generation: Generation, example: Example) -> float | None:
        if not asks_yes_no(example):
            return None
        return float(read_yes_no(generation.text, question=example.question) == self.positive)

    def counts(self, predicted: bool, actual: bool) -> tuple[int, int]:
        """(numerator, denominator) of one answer, from whether answer and gold are the positive class."""
        raise NotImplementedError

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, self._parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        pairs = [
            self.counts(sample.score == 1, self.positive in map(normalize_text, sample.gold)) for sample in samples
        ]
        wrong = max(self.counts(predicted=True, actual=False), self.counts(predicted=False, actual=True))
        right = self.counts(predicted=True, actual=True)
        return ratio([over for over, _ in pairs], [under for _, under in pairs], worst=wrong, best=right)


@component("metric", "precision")
@dataclass(frozen=True)
class Precision(YesNoMetric):
    """Share of right answers among those with the positive class (yes), over a whole cell."""

    def counts(self, predicted: bool, actual: bool) -> tuple[int, int]:
        return int(predicted and actual), int(predicted)


@component("metric", "recall")
@dataclass(frozen=True)
class Recall(YesNoMetric):
    """Share of questions with the positive class (yes) that are answered with it, over a whole cell."""

    def counts(self, predicted: bool, actual: bool) -> tuple[int, int]:
        return int(predicted and actual), int(actual)


@component("metric", "f1")
@dataclass(frozen=True)
class F1(YesNoMetric):
    """Harmonic mean of precision and recall of the positive class (yes), over a whole cell."""

    def counts(self, predicted: bool, actual: bool) -> tuple[int, int]:
        return 2 * int(predicted and actual), int(predicted) + int(actual)
