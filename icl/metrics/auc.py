"""Area under the ROC curve, as for Hateful Memes (Kiela et al., NeurIPS 2020): how well P(yes) orders the samples.

The fraction of pairs of a positive and a negative sample in which the positive one has the higher score; ties count
half. With `answer_mode: options` the score is the probability of the positive option among the options. With generated
answers the score is 1, 0, or 1/2 for an output that is neither, so the curve has one corner.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from icl import (
    Better,
    Example,
    Generation,
    RunStatistic,
    ScoredSample,
    component,
    normalize_text,
    on_scored_samples,
    scipy,
)
from icl.metrics import Bools, Floats, named_option, option_probability


@component("metric", "auc")
@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve of the positive option's probability, for questions with two options."""

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

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

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, self._parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        positive = [normalize_text(self.positive) in map(normalize_text, sample.gold) for sample in samples]
        return roc_auc([float(sample.score or 0) for sample in samples], positive)


def roc_auc(scores: Sequence[float] | Floats, is_positive: Sequence[bool] | Bools) -> RunStatistic:
    """The area under the ROC curve, ties half; undefined if a class is missing.

    The area depends on ranks alone, and two arms may use scores very differently. So ranks within an arm stand for
    scores, as Venkatraman and Begg (1996) do when they exchange the readings of two diagnostic tests. The worst and the
    best sample belong to the smaller class.

    Args:
        scores: [n].
        is_positive: [n], the class of each sample.
    """
    positive = np.asarray(is_positive, dtype=bool)
    size = len(positive)
    width = 2 * size + 1  # doubled ranks, since ties have half ranks, and one place beyond either end
    columns = np.round(2 * scipy.stats.rankdata(scores)).astype(np.intp) - 1 + np.where(positive, 0, width)
    few_positives = bool(2 * positive.sum() <= size)
    worst, best = np.zeros(2 * width), np.zeros(2 * width)
    worst[0 if few_positives else -1] = 1
    best[width - 1 if few_positives else width] = 1
    return RunStatistic(
        rows=scipy.sparse.csr_matrix((np.ones(size), (np.arange(size), columns)), shape=(size, 2 * width)),
        value=_area,
        counted=np.ones(size, dtype=bool),
        informative=positive if few_positives else ~positive,
        worst=worst,
        best=best,
        is_proportion=True,
    )


def _area(sums: Floats) -> Floats:
    """The share of (positive, negative) pairs in the right order, ties half, from counts at each rank."""
    positives, negatives = np.split(sums, 2, axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (positives * below).sum(axis=-1) / (positives.sum(axis=-1) * negatives.sum(axis=-1))
    return np.asarray(area, dtype=np.float64)
