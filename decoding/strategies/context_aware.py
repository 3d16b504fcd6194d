"""Context-aware decoding and its adaptive variants: contrast with the prompt without the context."""

from dataclasses import dataclass
from typing import ClassVar

from decoding import AblatedPart, AblationContrast, AdaptiveAblationContrast, ContrastStrategy, jensen_shannon
from icl import NonNegative, Positive, Tensor, component


@component("strategy", "cad")
@dataclass(frozen=True)
class CAD(ContrastStrategy, AblationContrast):
    """Contrast with the prompt without demonstrations (or without the image).

    Context-aware decoding (Shi et al., NAACL 2024, 2305.14739): contrast with the prompt without its context.

        scores = (1 + alpha) z(y | context, query) - alpha z(y | query)

    There is no mask. The context is the demonstrations, or what `without` names.

    Differs from the released code in decoding both branches in batches (there one process per branch, batch size 1).

    Presets, from the released file names. summarization: used with top-p .9. conflict: knowledge conflicts, greedy.
    """

    alpha: NonNegative = 0.5  # strength of the contrast; 0 is the reference
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    presets: ClassVar[dict[str, dict[str, float]]] = {"summarization": {"alpha": 0.5}, "conflict": {"alpha": 1.0}}


@component("strategy", "adacad")
@dataclass(frozen=True)
class AdaCAD(AdaptiveAblationContrast):
    """Contrast with the prompt without demonstrations, as strong as the two distributions differ.

    Adaptive context-aware decoding (Wang et al., NAACL 2025, 2409.07394): contrast as strong as the disagreement.

        scores = (1 + a) z(y | context, query) - a z(y | query),      a = JSD(p(y | context, query), p(y | query))

    The Jensen-Shannon divergence is in nats, so a is at most log 2 = .69. If the branches agree, a is 0. There is no
    mask. For long answers the paper keeps a above a floor.

    Differs from the released code in decoding both branches in batches (there one process per branch, batch size 1),
    and in its optional top-p filters, which are missing.

    Presets. answers: short answers. summarization: a is at least .3.
    """

    floor: NonNegative = 0.0  # minimal strength of the contrast
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    presets: ClassVar[dict[str, dict[str, float]]] = {"answers": {"floor": 0.0}, "summarization": {"floor": 0.3}}

    def combine(self, logits: Tensor, step: int) -> Tensor:
        with_context, without_context = logits
        alpha = jensen_shannon(with_context, without_context).clamp(min=self.floor)
        scores: Tensor = (1 + alpha) * with_context - alpha * without_context
        return scores


@component("strategy", "coiecd")
@dataclass(frozen=True)
class COIECD(AdaptiveAblationContrast):
    """Contrast with the prompt without demonstrations, for tokens in conflict.

    COIECD (Yuan et al., ACL Findings 2024): contrast for tokens on which context and model conflict.

        g = l(y | context, query) - l(y | query)
        scores = l(y | query) + alpha g               without a conflict
                 l(y | context, query) + alpha g      with a conflict

    The paper detects conflicts by a band around the entropy of p(y | query). In the released code that entropy cancels.
    This file follows the code. A token is in conflict if p(y | context, query) is above `ratio` times the largest
    probability, unless only one token is, or if it is below the smallest probability divided by `ratio`. Tokens that
    the reference bans do not count. At alpha 1, tokens without a conflict score as in the reference; at alpha 0, as in
    the query alone. The weights differ from token to token, so the formula uses log-probabilities.

    Differs from the released code in banned tokens (see above), in padding (there a padded batch of the two prompts,
    right with padding on the left only), and in the length of an answer (there that of the gold answer).
    """

    alpha: NonNegative = 1.0  # strength of the contrast
    ratio: Positive = 0.25  # conflict: probability relative to the most, or the least, probable token
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    def combine(self, logits: Tensor, step: int) -> Tensor:
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
