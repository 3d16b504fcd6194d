"""OLM (Yin et al., NeurIPS 2025, 2504.10020): yes, wherever yes and no are both in play.

    favored, where p(yes) + p(no) > total and |p(yes) - p(no)| < margin; else the more probable

p of an option is summed over the first tokens of all its spellings (every casing, with and without a leading space),
at the first answer token. A rule that reads nothing of the image: what it gains is label prior.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.base import Strategy, unit_strength
from decoding.traits import Traits
from icl.constraints import Count, Fraction
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "olm")
@dataclass(frozen=True)
class OLM(Strategy):
    """Control: the favored option wherever it and its best rival are both in play. Options alone."""

    favored: Count = 0  # place among the options; 0 is yes where they are [yes, no]
    total: Fraction = 0.2  # least probability of both together
    margin: Fraction = 0.5  # most difference between them

    traits = Traits(combines_options=True, requires_options=True, sums_first_tokens=True, is_control=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        told = logits[0]
        which = torch.arange(told.shape[-1], device=told.device) == min(self.favored, told.shape[-1] - 1)
        own = told[:, which].exp()
        rival = told.masked_fill(which, -float("inf")).amax(-1, keepdim=True).exp()
        decided = (own + rival > self.total) & ((own - rival).abs() < self.margin)
        return torch.where(decided & which, told.amax(-1, keepdim=True) + 1, told)
