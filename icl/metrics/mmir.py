"""MMIR's score of a set of element numbers (Yan et al., 2502.16033).

    no number, or more than two          0
    one right number                     1 if it is the only number, .5 if it is one of two
    two right numbers                    the share of them in the output

The numbers are the distinct integers of the output, and of the gold. Examples with no number or more than two in the
gold have no score.

Differs from the released code in the reading of an output, which may be any text with numbers.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component

_NUMBER = re.compile(r"\d+")


def score_elements(predicted: set[int], gold: set[int]) -> float:
    """The score of the predicted numbers. gold: one or two numbers."""
    if not 1 <= len(predicted) <= 2:
        return 0.0
    hits = len(predicted & gold)
    return hits / max(len(predicted), len(gold))


@component("metric", "mmir")
@dataclass(frozen=True)
class MMIR:
    """Score of the numbers of inconsistent elements: one or two, half of the credit if only one of two is right."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        gold = set(map(int, _NUMBER.findall(example.answer)))
        if not 1 <= len(gold) <= 2:
            return None
        return score_elements(set(map(int, _NUMBER.findall(generation.text))), gold)
