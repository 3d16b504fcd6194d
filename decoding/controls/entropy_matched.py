"""Entropy matched: the reference at the temperature that gives it the method's entropy at each step.

On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(scores of the method)). The control is
as sharp or flat as the method and shares nothing else with it. It is also defined if the weights sum to zero or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import min_strength
from decoding.base import StepState, Strategy
from decoding.controls.base import WrappingControl
from decoding.formulas.divergences import entropy
from decoding.traits import Traits
from icl.memory.float_precision import widened
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget

MIN_TEMPERATURE, MAX_TEMPERATURE, BISECTIONS = 1e-4, 1e4, 60


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(WrappingControl):
    """Control: the reference at the temperature that gives it another strategy's entropy, at each step.

    If no temperature in [1e-4, 1e4] gives this entropy (ties of the best tokens, flat scores), the nearest end is used.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose entropy is matched

    control_rank: ClassVar[int] = 30

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """For sampled arms, and for strategies for which `temperature_matched` is not defined."""
        is_suitable = target.is_sampled or min_strength(target.strategy) <= 0
        return target.with_strategy(EntropyMatched(target.strategy)) if is_suitable else None

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
        target = self.of.combine_stateful(logits, step, states)
        scores: Tensor = logits[0] / self._temperature(logits, target)
        return scores.masked_fill(target == -float("inf"), -float("inf"))

    def _temperature(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """Temperature of each row, [B, 1], by bisection of log T. scores: combined scores of `of`, [B, V]."""
        import torch

        survives = self.surviving_tokens(logits, scores)
        target = entropy(widened(scores.masked_fill(~survives, -float("inf"))))
        reference = widened(logits[0] - logits[0].amax(-1, keepdim=True)).masked_fill(~survives, -float("inf"))
        if logits.device.type == "cpu":  # elsewhere the host would wait for the number
            max_survivors = int(survives.sum(-1).max())
            if max_survivors < survives.shape[-1]:  # a mask leaves few tokens of a large vocabulary
                reference = reference.topk(max_survivors).values
        low = torch.full_like(target, MIN_TEMPERATURE).log()
        high = torch.full_like(target, MAX_TEMPERATURE).log()
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            is_too_high = entropy(reference / middle.exp()) > target
            low, high = torch.where(is_too_high, low, middle), torch.where(is_too_high, middle, high)
        temperature: Tensor = ((low + high) / 2).exp().to(logits.dtype)
        return temperature
