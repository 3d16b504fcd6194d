"""Multi-modal mutual information decoding (Favero et al., CVPR 2024, 2403.14003): the image counts more with length.

    scores = l(y | image) + (1 - g) / g [l(y | image) - l(y | no image)],     g = exp(-decay t)

The weight is exp(decay t) - 1: a model forgets its image as the answer grows. Here t is 1 at the first token; with
`first` 0, as in RITUAL's re-implementation, the first token has no contrast, and yes/no answers have none at all. The
paper contrasts only where the reference is unsure, at a threshold it leaves open; re-implementations put the
plausibility mask in its place, and so does this one. `unsure` is the paper's form, with beta 0.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Note, Strategy, unit_strength
from decoding.formulas.masks import plausibility_mask
from decoding.prompt_edits import remove_query_image
from icl.constraints import Count, Fraction, NonNegative
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "m3id")
@dataclass(frozen=True)
class M3ID(Strategy):
    """Away from what is said without the image, more with every token.

    Presets. avisc, ritual: the re-implementations of Woo et al., which differ in the number of the first token.
    """

    decay: NonNegative = 0.02  # of the image's influence, a token; 0 is the reference under the mask
    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing
    first: Count = 1  # number of the first token
    unsure: Fraction = 1.0  # contrast only where the reference's best token has at most this probability; 1: always

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "avisc": {"decay": 0.02, "beta": 0.1, "first": 1},
        "ritual": {"decay": 0.02, "beta": 0.1, "first": 0},
    }
    neutral_parameters: ClassVar[dict[str, float]] = {"decay": 0.0}

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_query_image(prompt)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        seen, blind = logits.log_softmax(-1)
        weight = math.expm1(self.decay * (step + self.first))
        contrasted: Tensor = (1 + weight) * seen - weight * blind
        if self.unsure == 1:
            return contrasted
        return contrasted.where(seen.amax(-1, keepdim=True).exp() <= self.unsure, seen)
