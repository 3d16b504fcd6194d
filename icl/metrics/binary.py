"""Precision, recall and F1 of yes/no answers: POPE (Li et al., EMNLP 2023) with "yes" as the positive class.

    precision = right yes / all yes said        recall = right yes / all yes wanted
    F1        = 2 right yes / (all yes said + all yes wanted)

AMBER (Wang et al., 2311.07397) takes "no" as positive, since its questions about what is not there are those that
matter: `positive: no`. (Its script adds .001 to each denominator; these do not.) An output that says neither yes nor no
is no positive answer. Each is computed over a whole cell; precision without a positive answer is none. The accuracy is
`lenient` (or `pope`, by the released parser), the yes-ratio `yes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl.metrics.base import Better, Judged
from icl.metrics.normalize import plain
from icl.metrics.over_run import Parts, ratio, where_scored
from icl.metrics.yes_no import asks_yes_no, parse
from icl.registry import component
from icl.types import Example, Generation

Class = Literal["yes", "no"]


@dataclass(frozen=True)
class Binary:
    """Base of the three. A sample's score is 1 where it was answered with the positive class."""

    better: ClassVar[Better] = "higher"

    positive: Class = "yes"  # the class that is looked for

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(parse(generation.text) == self.positive) if asks_yes_no(example) else None

    def counts(self, said: bool, wanted: bool) -> tuple[int, int]:
        """(numerator, denominator) of one answer: whether the positive class was said, and whether it was wanted."""
        raise NotImplementedError

    def over_run(self, samples: Sequence[Judged]) -> Parts:
        return where_scored(samples, self._parts)

    def _parts(self, samples: Sequence[Judged]) -> Parts:
        pairs = [self.counts(sample.score == 1, self.positive in map(plain, sample.gold)) for sample in samples]
        wrong = max(self.counts(said=True, wanted=False), self.counts(said=False, wanted=True))
        right = self.counts(said=True, wanted=True)
        return ratio([over for over, _ in pairs], [under for _, under in pairs], least=wrong, most=right)


@component("metric", "precision")
@dataclass(frozen=True)
class Precision(Binary):
    """Of the answers with the positive class (yes), the share that is right; over a whole cell."""

    def counts(self, said: bool, wanted: bool) -> tuple[int, int]:
        return int(said and wanted), int(said)


@component("metric", "recall")
@dataclass(frozen=True)
class Recall(Binary):
    """Of the questions whose answer is the positive class (yes), the share answered with it; over a whole cell."""

    def counts(self, said: bool, wanted: bool) -> tuple[int, int]:
        return int(said and wanted), int(wanted)


@component("metric", "f1")
@dataclass(frozen=True)
class F1(Binary):
    """Harmonic mean of precision and recall of the positive class (yes); over a whole cell."""

    def counts(self, said: bool, wanted: bool) -> tuple[int, int]:
        return 2 * int(said and wanted), int(said) + int(wanted)
