"""Option accuracy: the option with the highest score is an accepted answer, strictly above all wrong ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Example, Generation


def is_best_option(scores: Mapping[str, float], answers: tuple[str, ...]) -> bool:
    """Whether an accepted answer has the highest score. A tie with a wrong option is wrong, and NaN never wins."""
    accepted = {normalize_text(answer) for answer in answers}
    right = [score for option, score in scores.items() if normalize_text(option) in accepted]
    wrong = [score for option, score in scores.items() if normalize_text(option) not in accepted]
    return any(all(score > other for other in wrong) for score in right)


@component("metric", "option", "accuracy")
@dataclass(frozen=True)
class OptionAccuracy:
    """Accuracy of the option with the highest score. A tie with a wrong option is wrong. Needs option scores."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        scores = generation.option_scores
        return float(is_best_option(scores, example.answers)) if scores else None
