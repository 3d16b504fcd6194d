"""Classifier-free guidance for language models (Sanchez et al., ICML 2024, 2306.17806), with an image as condition.

    scores = l(y | ablated prompt) + gamma [l(y | prompt) - l(y | ablated prompt)],      l: log-probabilities

There is no mask. The unconditional branch of the paper is the last token of the prompt, or a negative prompt. Here it
is the prompt without what `without` names. Because gamma is the same for all tokens, raw logits give the same choice.

Differs from the released code in the unconditional branch, which is the whole prompt without one part (in transformers
the last token, or a negative prompt of text).
"""

from dataclasses import dataclass
from typing import ClassVar

from decoding import AblatedPart, AblationContrast
from icl import NonNegative, Tensor, component


@component("strategy", "cfg")
@dataclass(frozen=True)
class CFG(AblationContrast):
    """Classifier-free guidance from the prompt without the image (or the demonstrations) to the full prompt."""

    gamma: NonNegative = 1.5  # guidance scale; 1 is the reference, 0 the unconditional branch
    without: AblatedPart = "image"  # what the unconditional branch lacks; 'image' means the images of the query

    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 1.0}

    @property
    def weights(self) -> tuple[float, float]:
        return self.gamma, 1 - self.gamma

    def combine(self, logits: Tensor, step: int) -> Tensor:
        conditional, unconditional = logits.log_softmax(-1)
        scores: Tensor = self.gamma * conditional + (1 - self.gamma) * unconditional
        return scores
