"""Adaptive context-aware decoding (Wang et al., NAACL 2025, 2409.07394): contrast as far as the branches disagree.

    scores = (1 + a) z(y | context, query) - a z(y | query),      a = JSD(p(y | context, query), p(y | query))

The Jensen-Shannon divergence is in nats, so a is at most log 2 = .69; where the branches agree nothing is done. No
mask; for long answers the paper keeps a above a floor.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.ablation_contrast import AdaptiveAblationContrast
from decoding.formulas.divergences import jensen_shannon
from decoding.prompt_edits import AblatedPart
from icl.constraints import NonNegative
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "adacad")
@dataclass(frozen=True)
class AdaCAD(AdaptiveAblationContrast):
    """Away from what would be said without the demonstrations, as far as that differs.

    Presets. answers: short answers. summarization: a is at least .3.
    """

    floor: NonNegative = 0.0  # least strength of the contrast
    without: AblatedPart = "demonstrations"  # what the second branch lacks: 'image' is the query's

    presets: ClassVar[dict[str, dict[str, float]]] = {"answers": {"floor": 0.0}, "summarization": {"floor": 0.3}}

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        informed, bare = logits
        alpha = jensen_shannon(informed, bare).clamp(min=self.floor)
        scores: Tensor = (1 + alpha) * informed - alpha * bare
        return scores
