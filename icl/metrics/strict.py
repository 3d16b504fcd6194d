"""Strict accuracy: the whole output is an accepted answer, apart from case, blanks and a final full stop.

This is VL-ICL's "exact match, case-insensitive". A model that answers in a sentence is wrong here. The difference to
`lenient` shows how much of a gain is learning the format.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component
from icl.metrics import is_accepted


@component("metric", "strict", "accuracy", "exact_match")
@dataclass(frozen=True)
class Strict:
    """Accuracy of the whole output, apart from case, blanks and a final full stop."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_accepted(generation.text, example.answers))
