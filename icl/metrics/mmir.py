"""MMIR's score of a set of element numbers (Yan et al., 2502.16033).

    no number, or more than two          0
    one right number                     1 if it is the only number, .5 if it is one of two
    two right numbers                    the share of them in the output

The numbers are the distinct integers of the output, and of the gold answers together. If the output has an answer
between <ans> and </ans>, as the released prompts ask for, only the first one counts. Examples with no number or more
than two in the gold have no score.

Differs from the released code in outputs without <ans>, where all numbers of the text count (there none).
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component

_NUMBER = re.compile(r"\d+")
_ANSWER = re.compile(r"<ans>(.*?)</ans>", re.DOTALL)


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
        gold = _numbers(" ".join(example.answers))
        if not 1 <= len(gold) <= 2:
            return None
        tagged = _ANSWER.search(generation.text)
        return score_elements(_numbers(tagged[1] if tagged else generation.text), gold)


def _numbers(text: str) -> set[int]:
    return set(map(int, _NUMBER.findall(text)))
