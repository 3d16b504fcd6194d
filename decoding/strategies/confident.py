"""Confident Decoding (Zhang et al., Deeper is Not Always Better, 2606.21906): the layer at the last valley of entropy.

    z_l = the output layer on the final norm of layer l's state,   H_l = entropy of softmax(z_l)
    from the last layer L backward: l moves to l - 1 while H_l-1 < H_l, at most `depth` times;   scores = z_l

The formula is quoted from a public note on the paper and its authors' proposal to vLLM; the paper itself was not read.
The proposal's command moves at most 10 layers. The default here is 3, because each layer is a branch: the prompt, whose
last layer gives the state of an earlier one. These branches run all layers, so the method costs more than in the paper.

No released code was compared.
"""

from dataclasses import dataclass

from decoding import Note, Traits, UnitSumStrategy, entropy
from icl import PositiveInt, Prompt, Site, Tensor, Where, component, steer, torch
from icl.models.interventions import MovedStates

EVERY = Where(part="both")
"""The last token of the prompt and all generated ones: those whose logits are read."""


def valley(entropies: Tensor) -> Tensor:
    """How often a search from the last layer moves to the layer before: [1 + depth, B], last layer first -> [B]."""
    return (entropies[1:] < entropies[:-1]).long().cumprod(0).sum(0)


@component("strategy", "confident_layer")
@dataclass(frozen=True)
class ConfidentLayer(UnitSumStrategy):
    """The logits of the layer at which entropy, followed down from the last layer, stops falling."""

    depth: PositiveInt = 3  # most layers below the last one that the search reaches

    traits = Traits(needs=frozenset({"logits", "interventions"}))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and the prompt read up to each layer below the last one, nearest first."""
        early = (MovedStates(Site("residual", -1 - i), Site("residual", -1), EVERY) for i in range(1, self.depth + 1))
        return prompt, *(steer(prompt, one) for one in early)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """logits: [1 + depth, B, V] float32 -> scores [B, V]."""
        moves = valley(torch.stack([entropy(one)[:, 0] for one in logits]))
        return logits[moves, torch.arange(logits.shape[1], device=logits.device)]
