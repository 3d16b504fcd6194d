"""Entropy matched: the reference alone, each step at the temperature that gives it the method's entropy.

On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(method's scores)). The control sharpens
or flattens exactly as much as the method does and takes nothing else from it; it is defined where the weights sum to
zero or less, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import least_strength
from decoding.base import Strategy, Thread
from decoding.controls.wrapped import Wrapped
from decoding.formulas.divergences import entropy
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held

COLDEST, HOTTEST, HALVINGS = 1e-4, 1e4, 60


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(Wrapped):
    """Control: the reference at the temperature, found at each step, that gives it another strategy's entropy.

    An entropy out of reach (ties among the best tokens, or a flat method) takes the nearest end of T in [1e-4, 1e4].
    """

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose entropy it is

    rank: ClassVar[int] = 30
    keeps_best: ClassVar[bool] = True

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        """Beside `temperature_matched` where the arm samples, and in its place where that is not defined."""
        fitting = held.sampled or least_strength(held.strategy) <= 0
        return held.beside(EntropyMatched(held.strategy)) if fitting else None

    @property
    def reads_all(self) -> bool:
        return True

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        sharpness: Tensor = 1 / self._temperature(logits, self.of.combine(logits, step))
        return sharpness

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        own = self.of.follow(logits, step, threads)
        scores: Tensor = logits[0] / self._temperature(logits, own)
        return scores.masked_fill(own == -float("inf"), -float("inf"))

    def _temperature(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """[B, 1] by bisection of log T on the survivors: entropy rises with temperature. scores: the method's."""
        import torch

        alive = self.alive(logits, scores)
        wanted = entropy(scores.masked_fill(~alive, -float("inf")))
        reference = (logits[0] - logits[0].amax(-1, keepdim=True)).masked_fill(~alive, -float("inf"))
        most = int(alive.sum(-1).max())
        if most < alive.shape[-1]:  # a mask leaves few tokens of a large vocabulary
            reference = reference.topk(most).values
        low = torch.full_like(wanted, COLDEST).log()
        high = torch.full_like(wanted, HOTTEST).log()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            cooler = entropy(reference / middle.exp()) > wanted
            low, high = torch.where(cooler, low, middle), torch.where(cooler, middle, high)
        found: Tensor = ((low + high) / 2).exp()
        return found
