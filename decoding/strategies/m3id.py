"""Multi-modal mutual information decoding (Favero et al., CVPR 2024, 2403.14003): a contrast that grows with length.

    scores = l(y | image) + (1 - g) / g [l(y | image) - l(y | no image)],     g = exp(-decay t)

The weight is exp(decay t) - 1, because a model forgets its image as the answer grows. Here t is 1 at the first token.
If `first_step` is 0, as in RITUAL's re-implementation, the first token has no contrast, so yes/no answers are not
contrasted. The paper contrasts only if the best probability is at most a threshold; it does not state the value. This
file uses the plausibility mask instead, as re-implementations do. For the form of the paper, set `threshold` and beta
0.

No released code. The re-implementations of AvisC and RITUAL differ in the number of the first step.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from decoding import Note, Strategy, plausibility_mask, remove_query_image, unit_strength, weight_per_row
from icl import Count, Fraction, NonNegative, Prompt, Tensor, component


@component("strategy", "m3id")
@dataclass(frozen=True)
class M3ID(Strategy):
    """Contrast with the prompt without the image, stronger with every token.

    Presets. avisc, ritual: re-implementations of Woo et al., which differ in the number of the first step.
    """

    decay: NonNegative = 0.02  # lambda: decay of the image's influence per token; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    first_step: Count = 1  # t at the first token
    threshold: Fraction = 1.0  # probability of the reference's best token up to which there is a contrast; 1: always

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "avisc": {"decay": 0.02, "beta": 0.1, "first_step": 1},
        "ritual": {"decay": 0.02, "beta": 0.1, "first_step": 0},
    }
    neutral_parameters: ClassVar[dict[str, float]] = {"decay": 0.0}

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_query_image(prompt)

    def mask(self, reference: Tensor) -> Tensor | None:
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, imageless = logits.log_softmax(-1)
        scores: Tensor = (
            weight_per_row(step, lambda number: 1 + self._weight(number), logits) * original
            - weight_per_row(step, self._weight, logits) * imageless
        )
        if self.threshold == 1:
            return scores
        return scores.where(original.amax(-1, keepdim=True).exp() <= self.threshold, original)

    def _weight(self, step: int) -> float:
        """Weight of the prompt without the image."""
        return math.expm1(self.decay * (step + self.first_step))
