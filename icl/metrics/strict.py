"""Strict accuracy: the whole output is an accepted answer, but for case, blanks and a full stop at the end.

VL-ICL's "exact match, case-insensitive". A model that knows the answer and says it in a sentence is wrong here; the
difference to `lenient` is what a gain owes to learning the format.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Example, Generation


def is_exact_match(output: str, answers: tuple[str, ...]) -> bool:
    """`plain(output)` is `plain` of one of the answers."""
    return normalize_text(output) in {normalize_text(answer) for answer in answers}


@component("metric", "strict")
@dataclass(frozen=True)
class Strict:
    """The whole output is an accepted answer, but for case, blanks and a full stop at the end."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_exact_match(generation.text, example.answers))
