"""X-MoRe's ensemble (Eom et al., 2308.15273): the image and what was retrieved for it, each as sure as it is.

    p = w_1 p(y | image alone) + w_2 p(y | demonstrations, no image),      w = softmax(-entropies)

In the paper CLIP classifies by the image and by retrieved captions, and the surer view counts more. Here the views
are the query without demonstrations and the demonstrations without the query's image; the whole prompt is read for
traces and controls, and has no weight. The exact normalization is not verified: `inverse` and `confidence` are others.
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
    """Image and demonstrations as two views, mixed as probabilities by how sure each is."""

    by: Literal["entropy", "inverse", "confidence"] = "entropy"  # softmax of -H; 1/H; the best token's probability

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt, Prompt]:
        return prompt, remove_demonstrations(prompt), remove_query_image(prompt)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        told = logits[1:].log_softmax(-1)
        scores: Tensor = torch.logsumexp(told + self._shares(told).log(), 0)
        return scores

    def _shares(self, told: "Tensor") -> "Tensor":
        """[2, B, 1], which sum to one."""
        if self.by == "entropy":
            return (-entropy(told)).softmax(0)
        sure = told.amax(-1, keepdim=True).exp() if self.by == "confidence" else 1 / entropy(told).clamp(min=1e-6)
        shares: Tensor = sure / sure.sum(0)
        return shares
