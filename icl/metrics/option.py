"""Option accuracy: the option with the highest score is an accepted answer, strictly above all wrong ones."""

from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component


@component("metric", "option", "accuracy")
@dataclass(frozen=True)
class OptionAccuracy:
    """Accuracy of the option with the highest score. A tie with a wrong option is wrong. Needs option scores."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        from icl.metrics.machinery.option_parsing import is_best_option  # its patterns take time to compile

        scores = generation.option_scores
        return float(is_best_option(scores, example.answers)) if scores else None
