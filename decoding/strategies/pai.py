"""Pay attention to image (Liu et al., ECCV 2024, 2407.21771), its logit part: guidance from text to image and text.

    scores = gamma [l(y | image) - l(y | no image)] + l(y | no image),   if p(y | image) >= beta max p

The paper also raises the attention of the last token to image tokens: add `intervene: attention_scaling`. At gamma 1
the mask remains; the released code drops it.

Differs from the released code in the attention part, which is a component of its own, and in the mask at gamma 1.
"""

from dataclasses import dataclass
from typing import ClassVar

from decoding import Note, Strategy, plausibility_mask, remove_query_image
from icl import Fraction, NonNegative, Prompt, Tensor, component


@component("strategy", "pai")
@dataclass(frozen=True)
class PAI(Strategy):
    """Guidance from the prompt without the image to the full prompt, without the paper's change of attention.

    Presets. readme, argparse: the two defaults in the released code.
    """

    gamma: NonNegative = 1.1  # guidance scale; 1 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing

    presets: ClassVar[dict[str, dict[str, float]]] = {"readme": {"gamma": 1.1}, "argparse": {"gamma": 2.0}}
    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 1.0}

    @property
    def weights(self) -> tuple[float, float]:
        return self.gamma, 1 - self.gamma

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_query_image(prompt)

    def mask(self, reference: Tensor) -> Tensor | None:
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, text = logits.log_softmax(-1)
        scores: Tensor = self.gamma * (original - text) + text
        return scores
