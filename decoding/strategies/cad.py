"""Context-aware decoding (Shi et al., NAACL 2024, 2305.14739): away from what is said without the context.

    scores = (1 + alpha) z(y | context, query) - alpha z(y | query)

No mask. The context is what in-context learning adds, the demonstrations, unless `without` says the image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.ablation_contrast import AblationContrast
from decoding.prompt_edits import AblatedPart
from icl.constraints import NonNegative
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "cad")
@dataclass(frozen=True)
class CAD(AblationContrast):
    """Away from what would be said without the demonstrations (or the image).

    Presets, from the released file names. summarization: with top-p .9 there. conflict: knowledge conflicts, greedy.
    """

    alpha: NonNegative = 0.5  # strength of the contrast; 0 is the reference
    without: AblatedPart = "demonstrations"  # what the second branch lacks: 'image' is the query's

    presets: ClassVar[dict[str, dict[str, float]]] = {"summarization": {"alpha": 0.5}, "conflict": {"alpha": 1.0}}
    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        informed, bare = logits
        scores: Tensor = (1 + self.alpha) * informed - self.alpha * bare
        return scores
