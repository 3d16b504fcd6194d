"""Entropy matched: the reference alone, each step at the temperature that gives it the method's entropy.

On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(method's scores)). The control sharpens
or flattens exactly as much as the method does and takes nothing else from it; it is defined where the weights sum to
zero or less, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import min_strength
from decoding.base import StepState, Strategy
from decoding.controls.base import WrappingControl
from decoding.formulas.divergences import entropy
from decoding.traits import Traits
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget

COLDEST, HOTTEST, HALVINGS = 1e-4, 1e4, 60


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(WrappingControl):
    """Control: the reference at the temperature, found at each step, that gives it another strategy's entropy.

    An entropy out of reach (ties among the best tokens, or a flat method) takes the nearest end of T in [1e-4, 1e4].
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose entropy it is

    control_rank: ClassVar[int] = 30

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """Beside `temperature_matched` where the arm samples, and in its place where that is not defined."""
        fitting = target.is_sampled or min_strength(target.strategy) <= 0
        return target.with_strategy(EntropyMatched(target.strategy)) if fitting else None

    @property
    def needs_all_branches(self) -> bool:
        return True

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        sharpness: Tensor = 1 / self._temperature(logits, self.of.combine(logits, step))
        return sharpness

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        own = self.of.combine_stateful(logits, step, states)
        scores: Tensor = logits[0] / self._temperature(logits, own)
        return scores.masked_fill(own == -float("inf"), -float("inf"))

    def _temperature(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """[B, 1] by bisection of log T on the survivors: entropy rises with temperature. scores: the method's."""
        import torch

        surviving_tokens = self.surviving_tokens(logits, scores)
        wanted = entropy(scores.masked_fill(~surviving_tokens, -float("inf")).double())
        reference = (
            (logits[0] - logits[0].amax(-1, keepdim=True)).double().masked_fill(~surviving_tokens, -float("inf"))
        )
        most = int(surviving_tokens.sum(-1).max())
        if most < surviving_tokens.shape[-1]:  # a mask leaves few tokens of a large vocabulary
            reference = reference.topk(most).values
        low = torch.full_like(wanted, COLDEST).log()
        high = torch.full_like(wanted, HOTTEST).log()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            cooler = entropy(reference / middle.exp()) > wanted
            low, high = torch.where(cooler, low, middle), torch.where(cooler, middle, high)
        found: Tensor = ((low + high) / 2).exp().to(logits.dtype)
        return found
