"""Entropy matched: the reference alone, each step at the temperature that gives it the method's entropy.

On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(method's scores)). The control sharpens
or flattens exactly as much as the method does and takes nothing else from it; it is defined where the weights sum to
zero or less, too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from decoding.base import Strategy
from decoding.controls.wrapped import Wrapped
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

COLDEST, HOTTEST, HALVINGS = 1e-4, 1e4, 60


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(Wrapped):
    """Control: the reference at the temperature, found at each step, that gives it another strategy's entropy.

    An entropy out of reach (ties among the best tokens, or a flat method) takes the nearest end of T in [1e-4, 1e4].
    """

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose entropy it is

    @property
    def reads_all(self) -> bool:
        return True

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        sharpness: Tensor = 1 / self._temperature(logits, step)
        return sharpness

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        scores: Tensor = logits[0] / self._temperature(logits, step)
        return self.ruled_out(logits, step, scores)

    def _temperature(self, logits: "Tensor", step: int) -> "Tensor":
        """[B, 1] by bisection of log T on the survivors: entropy rises with temperature."""
        import torch

        scores, mask = self.of.combine(logits, step), self.of.mask(logits[0])
        alive = scores > -float("inf") if mask is None else mask & (scores > -float("inf"))
        wanted = entropy(scores.masked_fill(~alive, -float("inf")))
        reference = logits[0] - logits[0].amax(-1, keepdim=True)
        low = torch.full_like(wanted, COLDEST).log()
        high = torch.full_like(wanted, HOTTEST).log()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            cooler = entropy((reference / middle.exp()).masked_fill(~alive, -float("inf"))) > wanted
            low, high = torch.where(cooler, low, middle), torch.where(cooler, middle, high)
        found: Tensor = ((low + high) / 2).exp()
        return found


def entropy(scores: "Tensor") -> "Tensor":
    """[B, V] scores -> [B, 1] entropy of their softmax, in nats; -inf holds no probability."""
    import torch

    total: Tensor = torch.special.entr(scores.softmax(-1)).sum(-1, keepdim=True)
    return total
