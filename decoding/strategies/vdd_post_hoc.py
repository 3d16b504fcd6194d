"""Post-hoc debiasing (Zhang et al., 2403.05262): answer options divided by what the model says when it sees nothing.

    p(option) ~ p(option | image) / [p(option | nothing) + 1e-4],      p: shares among the options

An affine calibration after which a model that sees nothing finds all options alike. Several priors are averaged as
probabilities. In the token loop the same formula runs over the vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.base import Note, Strategy, zero_strength
from decoding.strategies.vdd import NoiseStep, Prior, blind
from decoding.traits import Traits
from icl.constraints import Positive
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "vdd_post_hoc")
@dataclass(frozen=True)
class VDDPostHoc(Strategy):
    """Options divided by their prior without an image: calibration rather than contrast."""

    prior: Prior = "none"  # what stands for seeing nothing: no image, a noised one, or both
    noise_step: NoiseStep = 999  # of 1000 diffusion steps: nearly pure noise
    smoothing: Positive = 1e-4  # added to the prior

    traits = Traits(combines_options=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *blind(prompt, self.prior, self.noise_step)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        prior = logits[1:].softmax(-1).mean(0)
        scores: Tensor = logits[0].log_softmax(-1) - (prior + self.smoothing).log()
        return scores
