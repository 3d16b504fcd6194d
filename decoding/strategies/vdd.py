"""Visual debiasing: the prior of a model without visual content, in decoding or after it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from decoding import Note, PlausibleStrategy, Strategy, Traits, remove_query_image, zero_strength
from icl import Fraction, NonNegative, Positive, Prompt, Tensor, component
from icl.edits import DIFFUSION_STEPS, DiffusionNoise

Prior = Literal["none", "noise", "both"]
NoiseStep = Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)]


def prior_prompts(prompt: Prompt, prior: Prior, noise_step: int) -> tuple[Prompt, ...]:
    """The prompts of the priors: without the query's image, with a noised one, or both."""
    imageless = () if prior == "noise" else (remove_query_image(prompt),)
    return imageless if prior == "none" else (*imageless, prompt.edit(DiffusionNoise(noise_step), "query"))


@component("strategy", "vdd")
@dataclass(frozen=True)
class VDD(PlausibleStrategy):
    """Contrast with the mean of a branch without an image and one with a meaningless image.

    Visual debiasing decoding (Zhang et al., 2403.05262): contrast with the model's prior without visual content.

        scores = (1 + alpha) z(y | image) - alpha mean[z(y | no image), z(y | meaningless image)],
        if p(y | image) >= beta max p

    The second prior of the released code replaces the image tokens by <unk>. Here it is almost pure noise, which any
    model accepts. The paper's calibration of answer options is `vdd_post_hoc`.

    Differs from the released code in the second prior (see above), and in the caches: each branch has its own (the
    release reuses the first branch's from the second token on).
    """

    alpha: NonNegative = 0.5  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    prior: Prior = "both"  # branches without visual content: no image, a noised one, or both
    noise_step: NoiseStep = 999  # of 1000 diffusion steps; 999 is almost pure noise

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, ...]:
        count = 2 if self.prior == "both" else 1
        return 1 + self.alpha, *[-self.alpha / count] * count

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *prior_prompts(prompt, self.prior, self.noise_step)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return (1 + self.alpha) * logits[0] - self.alpha * logits[1:].mean(0)


@component("strategy", "vdd_post_hoc")
@dataclass(frozen=True)
class VDDPostHoc(Strategy):
    """Option probabilities divided by their prior without an image.

    Post-hoc debiasing (Zhang et al., 2403.05262): option probabilities divided by the prior without visual content.

        p(option) ~ p(option | image) / [p(option | no visual content) + 1e-4],      p: normalized over the options

    After this affine calibration, a model without visual content gives all options equal probability. Several priors
    are averaged as probabilities. In the token loop the same formula applies to the vocabulary.

    Differs from the released code in the prior with a meaningless image, which is noise (there <unk> tokens).
    """

    weights: ClassVar[None] = None

    prior: Prior = "none"  # branches without visual content: no image, a noised one, or both
    noise_step: NoiseStep = 999  # of 1000 diffusion steps; 999 is almost pure noise
    smoothing: Positive = 1e-4  # added to the prior

    traits = Traits(combines_options=True)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *prior_prompts(prompt, self.prior, self.noise_step)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        prior = logits[1:].softmax(-1).mean(0)
        return logits[0].log_softmax(-1) - (prior + self.smoothing).log()
