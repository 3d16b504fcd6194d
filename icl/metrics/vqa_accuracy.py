"""VQA accuracy (Antol et al., ICCV 2015; also OK-VQA, VizWiz): agreement with ten annotators.

    mean over annotators of min(1, how many of the others gave this answer / 3)

so 1, 2, 3, 4 of ten annotators give .3, .6, .9, 1: not min(n / 3, 1), which papers print. "The others" excludes one
annotator by position. The released script excludes by value, which counts wrongly if answers have no number.

Answers and output are normalized by `icl.metrics.normalize.normalize_vqa`. The script normalizes only if annotators
disagree, so "2" against ten times "two" is wrong there, and so is "Yes" against ten times "yes". `normalize: official`
does the same.

Differs from the released code in the normalization where all annotators agree, unless `normalize: official` is set, and
in answers without a number (see above).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Better, Example, Generation, component, in_texts
from icl.metrics.normalize import normalize_vqa


def vqa_accuracy(output: str, votes: Sequence[str], normalize: Literal["always", "official"] = "always") -> float:
    """Agreement of an answer with ten annotators. votes: the answer of each annotator, with repetitions."""
    text, *references = (answer.replace("\n", " ").replace("\t", " ").strip() for answer in (output, *votes))
    if normalize == "always" or len(set(references)) > 1:
        text, references = normalize_vqa(text), [normalize_vqa(vote) for vote in references]
    matches = [vote == text for vote in references]
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(matches)


@component("metric", "vqa")
@dataclass(frozen=True)
class VQA:
    """Soft accuracy against ten annotators, leave-one-out, with the official normalization of answers."""

    better: ClassVar[Better] = "higher"

    normalize: Literal["always", "official"] = "always"  # official: only where the annotators disagree

    def score(self, generation: Generation, example: Example) -> float | None:
        votes = example.secret.get("votes", ())
        is_renamed = {*map(normalize_vqa, votes)}.isdisjoint(map(normalize_vqa, in_texts(example).answers))
        # The votes for renamed answers have the old names.
        return None if len(votes) < 2 or is_renamed else vqa_accuracy(generation.text, votes, self.normalize)
