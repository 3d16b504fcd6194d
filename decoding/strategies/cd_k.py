"""CD-K (CM3Leon, Yu et al., 2309.02591): contrastive decoding with the k-th best token as the measure of plausible.

    scores = l(y | prompt) - l(y | bare),      kept where p(y | prompt) >= alpha times the k-th largest p

Expert and amateur are one model with and without its condition. k = 1 is the mask of contrastive decoding; the weights
sum to zero, so alone it says nothing where the branches agree. The paper's alpha and k are not verified: these are not
its numbers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.arms.ablation_contrast import AblationContrast
from decoding.formulas.masks import kth_plausibility_mask
from decoding.prompt_edits import AblatedPart
from icl.constraints import Fraction, PositiveInt
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "cd_k")
@dataclass(frozen=True)
class CDK(AblationContrast):
    """What the image adds, among tokens plausible beside the k-th best. Raises PlanError where k is too large."""

    alpha: Fraction = 0.1  # of the k-th best token's probability that a token must reach; 0 masks nothing
    k: PositiveInt = 5  # whose probability is the measure; 1: the best token's
    without: AblatedPart = "image"  # what the second branch lacks: 'image' is the query's

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return kth_plausibility_mask(reference, self.alpha, self.k)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        conditioned, bare = logits.log_softmax(-1)
        scores: Tensor = conditioned - bare
        return scores
