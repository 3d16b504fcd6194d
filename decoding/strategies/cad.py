"""Context-aware decoding (Shi et al., NAACL 2024, 2305.14739): contrast with the prompt without its context.

    scores = (1 + alpha) z(y | context, query) - alpha z(y | query)

There is no mask. The context is the demonstrations, or what `without` names.

Differs from the released code in decoding both branches in batches (there one process per branch, batch size 1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.wrapper import AblationContrast
from decoding.prompt_edits import AblatedPart
from icl.registry import NonNegative, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "cad")
@dataclass(frozen=True)
class CAD(AblationContrast):
    """Contrast with the prompt without demonstrations (or without the image).

    Presets, from the released file names. summarization: used with top-p .9. conflict: knowledge conflicts, greedy.
    """

    alpha: NonNegative = 0.5  # strength of the contrast; 0 is the reference
    without: AblatedPart = "demonstrations"  # what the second branch lacks; 'image' means the images of the query

    presets: ClassVar[dict[str, dict[str, float]]] = {"summarization": {"alpha": 0.5}, "conflict": {"alpha": 1.0}}
    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        with_context, without_context = logits
        scores: Tensor = (1 + self.alpha) * with_context - self.alpha * without_context
        return scores
