"""Area under the ROC curve, as for Hateful Memes (Kiela et al., NeurIPS 2020): how well P(yes) orders the samples.

The share of pairs of a positive and a negative sample in which the positive one has the higher score, ties half. With
`answer_mode: options` the score is the probability of the positive option among the options; with generated answers it is 1,
0, or 1/2 where the output is neither, and the area is that of a curve with one corner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better, Judged
from icl.metrics.chosen_option import chosen, share
from icl.metrics.normalize import plain
from icl.metrics.over_run import Parts, area, where_scored
from icl.registry import component
from icl.types import Example, Generation


@component("metric", "auc")
@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve of the positive option's probability; for questions with two options."""

    better: ClassVar[Better] = "higher"

    positive: str = "yes"  # the option that is the positive class

    def score(self, generation: Generation, example: Example) -> float | None:
        options = tuple(map(plain, example.options))
        if len(options) != 2 or plain(self.positive) not in options:
            return None
        scored = share(generation.option_scores, self.positive)
        if scored is not None:
            return scored
        said = chosen(generation.text, example.options)
        return 0.5 if said is None else float(said == plain(self.positive))

    def over_run(self, samples: Sequence[Judged]) -> Parts:
        return where_scored(samples, self._parts)

    def _parts(self, samples: Sequence[Judged]) -> Parts:
        positive = [plain(self.positive) in map(plain, sample.gold) for sample in samples]
        return area([float(sample.score or 0) for sample in samples], positive)
