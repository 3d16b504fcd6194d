"""Adaptive context-aware decoding (Wang et al., NAACL 2025, 2409.07394): contrast as strong as the disagreement.

    scores = (1 + a) z(y | context, query) - a z(y | query),      a = JSD(p(y | context, query), p(y | query))

The Jensen-Shannon divergence is in nats, so a is at most log 2 = .69. If the branches agree, a is 0. There is no mask.
For long answers the paper keeps a above a floor.

Differs from the released code in decoding both branches in batches (there one process per branch, batch size 1), and in
its optional top-p filters, which are missing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.wrapper import AdaptiveAblationContrast
from decoding.formulas.divergences import jensen_shannon
from decoding.prompt_edits import AblatedPart
from icl.registry import NonNegative, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "adacad")
@dataclass(frozen=True)
class AdaCAD(AdaptiveAblationContrast):
    """Contrast with the prompt without demonstrations, as strong as the two distributions differ.

    Presets. answers: short answers. summarization: a is at least .3.
    """

    floor: NonNegative = 0.0  # minimal strength of the contrast
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    presets: ClassVar[dict[str, dict[str, float]]] = {"answers": {"floor": 0.0}, "summarization": {"floor": 0.3}}

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        with_context, without_context = logits
        alpha = jensen_shannon(with_context, without_context).clamp(min=self.floor)
        scores: Tensor = (1 + alpha) * with_context - alpha * without_context
        return scores
