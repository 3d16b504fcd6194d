"""Contrast with the prompt without its image, or with a part of it covered."""

import math
from dataclasses import dataclass
from typing import ClassVar

from decoding import (
    AblatedPart,
    AblationContrast,
    ContrastStrategy,
    Note,
    PlausibleStrategy,
    UnitSumStrategy,
    remove_query_image,
    weight_per_row,
)
from decoding.branch import WHOLE
from icl import Count, Fraction, NonNegative, Prompt, Tensor, component
from icl.edits import RegionMask


@component("strategy", "cfg")
@dataclass(frozen=True)
class CFG(AblationContrast):
    """Classifier-free guidance from the prompt without the image (or the demonstrations) to the full prompt.

    Classifier-free guidance for language models (Sanchez et al., ICML 2024, 2306.17806), with an image as condition.

        scores = l(y | ablated prompt) + gamma [l(y | prompt) - l(y | ablated prompt)],      l: log-probabilities

    There is no mask. The unconditional branch of the paper is the last token of the prompt, or a negative prompt. Here
    it is the prompt without what `without` names. Because gamma is the same for all tokens, raw logits give the same
    choice.

    Differs from the released code in the unconditional branch, which is the whole prompt without one part (in
    transformers the last token, or a negative prompt of text).
    """

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


@component("strategy", "pai")
@dataclass(frozen=True)
class PAI(PlausibleStrategy):
    """Guidance from the prompt without the image to the full prompt, without the paper's change of attention.

    Pay attention to image (Liu et al., ECCV 2024, 2407.21771), its logit part: guidance from text to image and text.

        scores = gamma [l(y | image) - l(y | no image)] + l(y | no image),   if p(y | image) >= beta max p

    The paper also raises the attention of the last token to image tokens: add `intervene: attention_scaling`. At gamma
    1 the mask remains; the released code drops it.

    Differs from the released code in the attention part, which is a component of its own, and in the mask at gamma 1.

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

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, text = logits.log_softmax(-1)
        scores: Tensor = self.gamma * (original - text) + text
        return scores


ALMOST_BLACK = 1


@component("strategy", "crg")
@dataclass(frozen=True)
class CRG(ContrastStrategy):
    """Contrast with the query's image with a region blacked out.

    Contrastive region guidance (Wan et al., ECCV 2024, 2403.02325): contrast with a region blacked out.

        scores = (1 + alpha) z(y | image) - alpha z(y | image, region blacked out)

    There is no plausibility mask. The paper blacks out boxes that the question names or a detector finds. Here the box
    is a parameter, by default the whole image. The color is almost black, because some processors treat zeros as
    padding.

    Differs from the released code in logits processors, which act on the combined scores (there on each branch), in the
    box, which is a parameter, and in its color.
    """

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference
    region: tuple[Fraction, Fraction, Fraction, Fraction] = WHOLE  # left, top, right, bottom as fractions of the sides

    def __post_init__(self) -> None:
        RegionMask(*self.region)  # refuses an inverted box before anything runs

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(RegionMask(*self.region, ALMOST_BLACK, ALMOST_BLACK, ALMOST_BLACK), "query")


@component("strategy", "m3id")
@dataclass(frozen=True)
class M3ID(UnitSumStrategy, PlausibleStrategy):
    """Contrast with the prompt without the image, stronger with every token.

    Multi-modal mutual information decoding (Favero et al., CVPR 2024, 2403.14003): a contrast that grows with length.

        scores = l(y | image) + (1 - g) / g [l(y | image) - l(y | no image)],     g = exp(-decay t)

    The weight is exp(decay t) - 1, because a model forgets its image as the answer grows. Here t is 1 at the first
    token. If `first_step` is 0, as in RITUAL's re-implementation, the first token has no contrast, so yes/no answers
    are not contrasted. The paper contrasts only if the best probability is at most a threshold; it does not state the
    value. This file uses the plausibility mask instead, as re-implementations do. For the form of the paper, set
    `threshold` and beta 0.

    No released code. The re-implementations of AvisC and RITUAL differ in the number of the first step.

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

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_query_image(prompt)

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
