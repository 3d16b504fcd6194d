"""ROUGE-L (Lin, 2004) in the form of the COCO caption evaluation.

    P = longest common subsequence / words of the caption        R = the same / words of the reference
    F = (1 + b^2) P R / (R + b^2 P),  b = 1.2, with the largest P and the largest R of all references

The score of a cell is the mean over captions. Unlike the ROUGE of summarization (`rouge-score`), words are those of
`icl.metrics.machinery.penn_tokenizer` and are not stemmed, and P and R may come from two references.

Differs from the released code in nothing known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component
from icl.metrics.machinery.penn_tokenizer import tokenize

BETA = 1.2  # weight of the recall


def rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of a caption's tokens against its references, in [0, 1]."""
    lengths = [common_subsequence(caption, reference) for reference in references]
    precision = max(lengths) / max(1, len(caption))
    recall = max(length / max(1, len(reference)) for length, reference in zip(lengths, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for i, other in enumerate(second, 1):
            diagonal, row[i] = row[i], diagonal + 1 if token == other else max(row[i], row[i - 1])
    return row[-1]


@component("metric", "rouge_l")
@dataclass(frozen=True)
class RougeL:
    """ROUGE-L of captions, by their longest common subsequence with a reference."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        if not example.answers:
            return None
        return rouge_l(tokenize(generation.text), [tokenize(answer) for answer in example.answers])
