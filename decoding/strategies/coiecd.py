"""COIECD (Yuan et al., ACL Findings 2024): contrast for tokens on which context and model conflict.

    g = l(y | context, query) - l(y | query)
    scores = l(y | query) + alpha g               without a conflict
             l(y | context, query) + alpha g      with a conflict

The paper detects conflicts by a band around the entropy of p(y | query). In the released code that entropy cancels.
This file follows the code. A token is in conflict if p(y | context, query) is above `ratio` times the largest
probability, unless only one token is, or if it is below the smallest probability divided by `ratio`. Tokens that the
reference bans do not count. At alpha 1, tokens without a conflict score as in the reference; at alpha 0, as in the
query alone. The weights differ from token to token, so the formula uses log-probabilities.

Differs from the released code in banned tokens (see above), in padding (there a padded batch of the two prompts, right
with padding on the left only), and in the length of an answer (there that of the gold answer).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.arms.wrapper import AdaptiveAblationContrast
from decoding.prompt_edits import AblatedPart
from icl.registry import NonNegative, Positive, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "coiecd")
@dataclass(frozen=True)
class COIECD(AdaptiveAblationContrast):
    """Contrast with the prompt without demonstrations, for tokens in conflict."""

    alpha: NonNegative = 1.0  # strength of the contrast
    ratio: Positive = 0.25  # conflict: probability relative to the most, or the least, probable token
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import math

        with_context, without_context = logits.log_softmax(-1)
        margin = math.log(self.ratio)
        high = with_context > with_context.amax(-1, keepdim=True) + margin
        high = high & (high.sum(-1, keepdim=True) > 1)
        possible = with_context.masked_fill(with_context == -math.inf, math.inf)
        low = with_context < possible.amin(-1, keepdim=True) - margin
        contrast = self.alpha * (with_context - without_context)
        scores: Tensor = with_context.where(high | low, without_context) + contrast
        return scores
