"""DoLa (Chuang et al., ICLR 2024, 2309.03883): contrast of the last layer with an early layer.

    scores = l_N(y) - l_M(y),    M = argmax over early layers j of JSD(p_N, p_j),    if p_N(y) >= beta max p_N

The logits of an early layer are its hidden states after the model's own output layer, in the same forward pass.
Candidates are the even layers of one half of the model, as in the paper: `low` for long answers, `high` for short ones.
In models of more than 40 layers they are the even layers among the first or last 20, as in the released commands for 60
and 80 layers. The first of equally different layers is used. The weights sum to zero. The released code uses another
divergence than the paper, because it swaps the arguments of `kl_div`: KL of the average from each of the two
distributions (`divergence: released`).

Differs from the released code in the default divergence (see above), in masked tokens, which score -inf (there -1000),
and in the repetition penalty of its commands, which is a logits processor here. Models whose output layer shares its
matrix with the embeddings have no layer 0.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import PlausibleStrategy, Traits, jensen_shannon, zero_strength
from decoding.formulas.distributions import reversed_jensen_shannon
from icl import Fraction, Tensor, component, torch

MAX_CANDIDATES = 10
"""Even layers of a bucket of 20 layers."""


@component("strategy", "dola")
@dataclass(frozen=True)
class DoLa(PlausibleStrategy):
    """Contrast of the last layer with the early layer that differs from it most, among plausible tokens."""

    layers: Literal["low", "high", "all"] = "high"  # which of the even layers are candidates
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    divergence: Literal["jensen_shannon", "released"] = "jensen_shannon"  # chooses the early layer

    weights: ClassVar[None] = None  # the subtracted layer varies
    traits = Traits(needs=frozenset({"hidden_states", "logits"}), reads_early_exits=True, fallback="ced")

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return zero_strength(logits)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """Scores [B, V] from logits [1 + early layers, B, V]: the last layer, then early layers, lowest first."""
        last, early = logits[0], self._candidates(logits[1:])
        divergence = jensen_shannon if self.divergence == "jensen_shannon" else reversed_jensen_shannon
        chosen = divergence(last, early)[..., 0].argmax(0)
        rows = torch.arange(last.shape[0], device=last.device)
        return last.log_softmax(-1) - early[chosen, rows].log_softmax(-1)

    def _candidates(self, early: Tensor) -> Tensor:
        half = len(early) // 2
        if self.layers == "all" or len(early) < 2:
            return early
        return early[: min(half, MAX_CANDIDATES)] if self.layers == "low" else early[half:][-MAX_CANDIDATES:]
