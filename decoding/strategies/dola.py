"""DoLa (Chuang et al., ICLR 2024, 2309.03883): what the last layer knows beyond an earlier one.

    scores = l_N(y) - l_M(y),    M = argmax over early layers j of JSD(p_N, p_j),    kept where p_N(y) >= beta max p_N

An early layer speaks through the model's own output layer, all in the one forward of the prompt as it is. Candidates
are the even layers of one half of the model, as in the paper: `low` for long answers, `high` for short ones; a tie goes
to the first. The weights sum to zero. The released code measures another divergence than the paper says: KL from the
average to each of the two (the arguments of `kl_div` are swapped); `divergence: released` does so.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Strategy, zero_strength
from decoding.formulas.divergences import jensen_shannon, reversed_jensen_shannon
from decoding.formulas.masks import plausibility_mask
from decoding.traits import Traits
from icl.constraints import Fraction
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "dola")
@dataclass(frozen=True)
class DoLa(Strategy):
    """Away from what an early layer would say, the one that differs most, among tokens plausible to the last."""

    layers: Literal["low", "high", "all"] = "high"  # which half of the even layers is tried
    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing
    divergence: Literal["jensen_shannon", "released"] = "jensen_shannon"  # by which the early layer is chosen

    traits = Traits(needs=frozenset({"hidden_states", "logits"}), reads_early_exits=True, fallback="ced")

    @property
    def weights(self) -> None:
        """Which layer is subtracted varies."""
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        """One of the last layer, minus one of an early one."""
        return zero_strength(logits)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        """logits: [1 + early layers, B, V], the last layer first, then the early ones from the lowest on."""
        import torch

        last, early = logits[0], self._tried(logits[1:])
        apart = jensen_shannon if self.divergence == "jensen_shannon" else reversed_jensen_shannon
        chosen = torch.stack([apart(last, layer)[:, 0] for layer in early]).argmax(0)  # of ties the first
        rows = torch.arange(last.shape[0], device=last.device)
        scores: Tensor = last.log_softmax(-1) - early[chosen, rows].log_softmax(-1)
        return scores

    def _tried(self, early: "Tensor") -> "Tensor":
        half = len(early) // 2
        if self.layers == "all" or len(early) < 2:
            return early
        return early[:half] if self.layers == "low" else early[half:]
