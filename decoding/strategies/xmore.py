"""X-MoRe's ensemble (Eom et al., 2308.15273): mixture of image and retrieved demonstrations, weighted by confidence.

    p = w_1 p(y | image alone) + w_2 p(y | demonstrations, no image),      w = softmax(-entropies)

In the paper, CLIP classifies by the image and by retrieved captions, and the more confident view has more weight. Here
the views are the query without demonstrations, and the demonstrations without the query's image. The whole prompt is
branch 0, for traces and controls, and has no weight. The paper's normalization is not verified; `inverse` and
`confidence` are alternatives.

Differs from the released code in the weights (there 1 - H / log C, normalized by running sums over the queries before),
and in the text view (there captions from a corpus, classified by CLIP).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Note, Strategy, unit_strength
from decoding.formulas.divergences import entropy
from decoding.prompt_edits import remove_demonstrations, remove_query_image
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "xmore")
@dataclass(frozen=True)
class XMoRe(Strategy):
    """Mixture of two views, image and demonstrations, weighted by their confidence."""

    by: Literal["entropy", "inverse", "confidence"] = "entropy"  # weights ~ exp(-H), 1 / H, or the best probability

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt, Prompt]:
        return prompt, remove_demonstrations(prompt), remove_query_image(prompt)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        views = logits[1:].log_softmax(-1)
        scores: Tensor = torch.logsumexp(views + self._view_weights(views).log(), 0)
        return scores

    def _view_weights(self, views: "Tensor") -> "Tensor":
        """Weights that sum to one: log-probabilities [2, B, V] -> [2, B, 1]."""
        if self.by == "entropy":
            return (-entropy(views)).softmax(0)
        by_confidence = self.by == "confidence"
        weights = views.amax(-1, keepdim=True).exp() if by_confidence else 1 / entropy(views).clamp(min=1e-6)
        normalized: Tensor = weights / weights.sum(0)
        return normalized
