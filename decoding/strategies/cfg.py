"""Classifier-free guidance for language models (Sanchez et al., ICML 2024, 2306.17806), with an image as condition.

    scores = l(y | bare) + gamma [l(y | prompt) - l(y | bare)],      l: log-probabilities

No mask. The paper's bare branch is the prompt's last token, or a negative prompt; here it lacks what `without` says.
With one gamma for all tokens, log-probabilities and raw logits choose alike.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.ablation_contrast import AblationContrast
from decoding.prompt_edits import AblatedPart
from icl.constraints import NonNegative
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "cfg")
@dataclass(frozen=True)
class CFG(AblationContrast):
    """Guided from what is said without the image (or the demonstrations) towards what is said with it."""

    gamma: NonNegative = 1.5  # guidance; 1 is the reference, 0 the bare branch
    without: AblatedPart = "image"  # what the bare branch lacks: 'image' is the query's

    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 1.0}

    @property
    def weights(self) -> tuple[float, float]:
        return self.gamma, 1 - self.gamma

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        guided, bare = logits.log_softmax(-1)
        scores: Tensor = self.gamma * guided + (1 - self.gamma) * bare
        return scores
