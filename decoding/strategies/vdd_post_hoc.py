"""Post-hoc debiasing (Zhang et al., 2403.05262): option probabilities divided by the prior without visual content.

    p(option) ~ p(option | image) / [p(option | no visual content) + 1e-4],      p: normalized over the options

After this affine calibration, a model without visual content gives all options equal probability. Several priors are
averaged as probabilities. In the token loop the same formula applies to the vocabulary.

Differs from the released code in the prior with a meaningless image, which is noise (there <unk> tokens).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.base import Note, Strategy, Traits, zero_strength
from decoding.strategies.vdd import NoiseStep, Prior, prior_prompts
from icl.registry import Positive, component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "vdd_post_hoc")
@dataclass(frozen=True)
class VDDPostHoc(Strategy):
    """Option probabilities divided by their prior without an image."""

    prior: Prior = "none"  # branches without visual content: no image, a noised one, or both
    noise_step: NoiseStep = 999  # of 1000 diffusion steps; 999 is almost pure noise
    smoothing: Positive = 1e-4  # added to the prior

    traits = Traits(combines_options=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *prior_prompts(prompt, self.prior, self.noise_step)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        prior = logits[1:].softmax(-1).mean(0)
        scores: Tensor = logits[0].log_softmax(-1) - (prior + self.smoothing).log()
        return scores
