"""CD-K (CM3Leon, Yu et al., 2309.02591): contrastive decoding with a plausibility mask relative to the k-th best token.

    scores = l(y | prompt) - l(y | ablated prompt),      if p(y | prompt) >= alpha times the k-th largest p

Expert and amateur are the same model with and without its condition. The weights sum to zero, so surviving tokens have
equal scores if the branches agree. The paper's alpha and k are not verified; the defaults are not its numbers. k = 1,
the default, is the mask of contrastive decoding. With a larger k, at least k tokens survive, however unlikely. If the
model is certain, as of a short answer, the difference then chooses among implausible tokens.

No released code.
"""

from dataclasses import dataclass

from decoding import AblatedPart, AblationContrast, kth_plausibility_mask
from icl import Fraction, PositiveInt, Tensor, component


@component("strategy", "cd_k")
@dataclass(frozen=True)
class CDK(AblationContrast):
    """Difference that the image makes, among tokens plausible relative to the k-th best token."""

    alpha: Fraction = 0.1  # minimal probability relative to the k-th best token; 0 masks nothing
    k: PositiveInt = 1  # rank of the token that others are compared with; 1 is the best token
    without: AblatedPart = "image"  # what the second branch lacks; 'image' means the images of the query

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def mask(self, reference: Tensor) -> Tensor | None:
        return kth_plausibility_mask(reference, self.alpha, self.k)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        with_condition, without_condition = logits.log_softmax(-1)
        scores: Tensor = with_condition - without_condition
        return scores
