"""Numbers as answers: the number that an output states, and the one that a gold answer is."""

from collections.abc import Sequence

from icl.metrics.machinery.answer_extraction import extract_answer
from icl.metrics.machinery.quantities import stated_number
from icl.metrics.normalize import parse_numbers


def read_number(output: str) -> float | None:
    """The number that an output states as its answer; None without one. "None" is no number here, and "zero" is."""
    text = extract_answer(output).text
    number = stated_number(text)
    return number if number or parse_numbers(text) else None


def gold_number(answers: Sequence[str]) -> float | None:
    """The number that a gold answer is, or None. The first of several counts."""
    try:
        return float(answers[0])
    except (ValueError, IndexError):
        return None
