"""Scores of the task `dicl` (Machine Vision Therapy, Huang et al., 2312.02546): is the corrected prediction right?

    P(c) = mean over exemplars of P(yes | candidate c)
    accepted p if (P(p) + classifier's confidence) / 2 >= threshold,     else argmax P(c)

    dicl_accuracy    the result is the true class
    dicl_corrected   the prediction was wrong and the result is right
    dicl_broken      the prediction was right and the result is wrong

The accuracy of the classifier is accuracy - corrected + broken. A group is the questions about one image. P(yes) is the
probability among the options, or whether the answer is yes. A tie is the first candidate, which is the prediction.

Differs from the released code in P(True) and P(False), which are yes and no here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Fraction, Generation, ScoredSample, component, normalize_text
from icl.metrics.machinery.option_parsing import yes_probability
from icl.metrics.run_level import RunStatistic, mean_over_groups

KEYS = {"candidate", "prediction", "confidence"}


def corrected_class(probabilities: dict[str, float], prediction: str, confidence: float, threshold: float) -> str:
    """The accepted prediction, or the candidate with the highest probability of yes."""
    if (probabilities[prediction] + confidence) / 2 >= threshold:
        return prediction
    return max(probabilities, key=lambda name: probabilities[name])


def correction(members: Sequence[ScoredSample], threshold: float) -> tuple[str, str] | None:
    """The prediction and the corrected class of an image. None if its questions are not scored.

    Args:
        members: The questions about the image, whose scores are P(yes).
        threshold: Of `corrected_class`.
    """
    parts: dict[str, list[float]] = {}
    for member in members:
        if member.score is not None and set(member.meta) >= KEYS:
            parts.setdefault(str(member.meta["candidate"]), []).append(float(member.score))
    meta = members[0].meta
    means = {name: sum(values) / len(values) for name, values in parts.items()}
    if (prediction := str(meta.get("prediction"))) not in means:
        return None
    return prediction, corrected_class(means, prediction, float(meta["confidence"]), threshold)


@dataclass(frozen=True)
class DICLMetric:
    """Base class of the three. A sample's score is P(yes)."""

    threshold: Fraction = 0.6  # mean of P(yes) and the classifier's confidence at which the prediction is accepted

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return yes_probability(generation) if set(example.meta) >= KEYS else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return mean_over_groups(samples, self._image)

    def counts(self, was_right: bool, is_right: bool) -> bool:
        """Whether an image counts. was_right: the classifier; is_right: the corrected class."""
        raise NotImplementedError

    def _image(self, members: Sequence[ScoredSample]) -> float | None:
        result = correction(members, self.threshold)
        if result is None:
            return None
        true = {str(m.meta["candidate"]) for m in members if "yes" in map(normalize_text, m.gold)}
        return float(self.counts(result[0] in true, result[1] in true))


@component("metric", "dicl_accuracy")
@dataclass(frozen=True)
class DICLAccuracy(DICLMetric):
    """Accuracy of another classifier's predictions after the correction by the model."""

    def counts(self, was_right: bool, is_right: bool) -> bool:
        return is_right


@component("metric", "dicl_corrected")
@dataclass(frozen=True)
class DICLCorrected(DICLMetric):
    """Share of images with a wrong prediction that the correction makes right."""

    def counts(self, was_right: bool, is_right: bool) -> bool:
        return is_right and not was_right


@component("metric", "dicl_broken")
@dataclass(frozen=True)
class DICLBroken(DICLMetric):
    """Share of images with a right prediction that the correction makes wrong."""

    better: ClassVar[Better] = "lower"

    def counts(self, was_right: bool, is_right: bool) -> bool:
        return was_right and not is_right
