"""COIECD (Yuan et al., ACL Findings 2024): contrast for tokens on which context and model conflict, and only there.

    g = l(y | context, query) - l(y | query)
    scores = l(y | query) + alpha g               where there is no conflict
             l(y | context, query) + alpha g      where there is

The paper finds conflicts by a band around the entropy of p(y | query). In the released code that entropy cancels, and
this is what runs, and what is here: a token is in conflict where p(y | context, query) is above `ratio` times the
largest (where a single token is, it is not), or below the smallest divided by `ratio`. At alpha 1 tokens without
conflict score as the reference; at alpha 0 they score as the query alone. Log-probabilities, not logits: the weights
differ from token to token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.arms.ablation_contrast import AdaptiveAblationContrast
from decoding.prompt_edits import AblatedPart
from icl.constraints import NonNegative, Positive
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "coiecd")
@dataclass(frozen=True)
class COIECD(AdaptiveAblationContrast):
    """Away from what would be said without the demonstrations, for tokens in conflict alone."""

    alpha: NonNegative = 1.0  # strength of the contrast
    ratio: Positive = 0.25  # how near to the most, or the least, probable token a conflict lies
    without: AblatedPart = "demonstrations"  # what the second branch lacks: 'image' is the query's

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import math

        informed, bare = logits.log_softmax(-1)
        margin = math.log(self.ratio)
        high = informed > informed.amax(-1, keepdim=True) + margin
        high = high & (high.sum(-1, keepdim=True) > 1)
        low = informed < informed.amin(-1, keepdim=True) - margin
        contrast = self.alpha * (informed - bare)
        scores: Tensor = informed.where(high | low, bare) + contrast
        return scores
