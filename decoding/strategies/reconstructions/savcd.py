"""SAVCD (2510.13315): the model chooses, for each question, the change of the image to contrast with.

    scores = (1 + alpha) z(y | image) - alpha z(y | changed image),      if p(y) >= beta_t max p
    beta_t = sharpest (1 - H(p_t) / ln V)

The model reads the question and the names of the changes, and answers once. The mask is wide where the reference is
uncertain. An answer that names no change, or several, takes the first one; the run's counter `default_notes` says how
many requests have such an answer. The controls are `choice: random`, which draws each change with the same probability
and not as often as the model names it, and the name of one change for all questions.

No released code: a reconstruction from the abstract. The mask, the words and the changes are not the paper's.
`self_aug` has its formulas.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import DefaultNote, entropy, question_text
from decoding.strategies.self_aug import ChosenChange
from icl import Fraction, NonNegative, PositiveInt, Prompt, StreamKey, Tensor, component, edits

CHANGES: Mapping[str, edits.Edit] = {
    "noise": edits.DiffusionNoise(500),
    "colors": edits.RandomColors(),
    "crop": edits.Crop(0.25, 0.25, 0.75, 0.75),
    "mask": edits.RegionMask(0.25, 0.25, 0.75, 0.75),
    "flip": edits.Flip(),
    "shuffle": edits.ShuffledPatches(4),
}
"""Name -> change. The first one is taken if the answer names none."""

Choice = Literal["model", "random", "noise", "colors", "crop", "mask", "flip", "shuffle"]
REQUEST = (
    "A question about this image: {question}\nWhich change of the image would make the question hardest to answer: "
    "{changes}? Answer with one word."
)


def entropy_plausibility_mask(reference: Tensor, beta: float) -> Tensor:
    """p(v) >= beta (1 - H(p) / ln V) max p: logits [B, V] -> [B, V] bool. The best token always stays."""
    share = (beta * (1 - entropy(reference) / math.log(reference.shape[-1]))).clamp(min=1e-12, max=1.0)
    return reference >= reference.amax(-1, keepdim=True) + share.log()


@component("strategy", "savcd")
@dataclass(frozen=True)
class SAVCD(ChosenChange):
    """Contrast with a change of the image that the model chooses for the question."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    sharpest: Fraction = 0.1  # minimal probability relative to the best token, for a certain reference; 0 masks nothing
    choice: Choice = "model"  # who chooses the change; or one change for all questions
    max_new_tokens: PositiveInt = 8  # length limit of the choice

    changes: ClassVar[Sequence[str]] = tuple(CHANGES)

    def request(self, prompt: Prompt) -> str:
        return REQUEST.format(question=question_text(prompt), changes=", ".join(CHANGES))

    def chosen(self, answer: str) -> str:
        return chosen_change(answer)

    def edit(self, name: str, key: StreamKey) -> edits.Edit:
        return CHANGES[name]

    def mask(self, reference: Tensor) -> Tensor | None:
        return entropy_plausibility_mask(reference, self.sharpest) if self.sharpest else None


def chosen_change(answer: str) -> str:
    """The change that an answer names; the first one, as a default, if it names none or several."""
    names = {name for name in CHANGES if re.search(rf"\b{name}\b", answer, re.IGNORECASE)}
    return names.pop() if len(names) == 1 else DefaultNote(next(iter(CHANGES)))
