"""Area under the ROC curve, as for Hateful Memes (Kiela et al., NeurIPS 2020): how well P(yes) orders the samples.

The fraction of pairs of a positive and a negative sample in which the positive one has the higher score; ties count
half. With `answer_mode: options` the score is the probability of the positive option among the options. With generated
answers the score is 1, 0, or 1/2 for an output that is neither, so the curve has one corner.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better, ScoredSample
from icl.metrics.machinery.option_parsing import named_option, option_probability
from icl.metrics.normalize import normalize_text
from icl.metrics.run_level import SampleValues, on_scored_samples, roc_auc
from icl.registry import component
from icl.types import Example, Generation


@component("metric", "auc")
@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve of the positive option's probability, for questions with two options."""

    better: ClassVar[Better] = "higher"

    positive: str = "yes"  # option of the positive class

    def score(self, generation: Generation, example: Example) -> float | None:
        options = tuple(map(normalize_text, example.options))
        if len(options) != 2 or normalize_text(self.positive) not in options:
            return None
        probability = option_probability(generation.option_scores, self.positive)
        if probability is not None:
            return probability
        option = named_option(generation.text, example.options)
        return 0.5 if option is None else float(option == normalize_text(self.positive))

    def run_level(self, samples: Sequence[ScoredSample]) -> SampleValues:
        return on_scored_samples(samples, self._parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> SampleValues:
        positive = [normalize_text(self.positive) in map(normalize_text, sample.gold) for sample in samples]
        return roc_auc([float(sample.score or 0) for sample in samples], positive)
