"""Sign flip: the shift of a method relative to the reference, with the opposite sign.

    scores = s z_0 - (scores of the method - s z_0),      s: the sum of its weights

For VCD this is (1 - alpha) z_0 + alpha z_1, towards the noised image instead of away from it. If a method gains as much
with the opposite sign, the direction of its contrast does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import constant_weights, has_negative_weight
from decoding.base import StepState, Strategy
from decoding.controls.base import AllBranchesControl
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "sign_flip")
@dataclass(frozen=True)
class SignFlip(AllBranchesControl):
    """Control: another strategy with the sign of its shift reversed."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose shift is reversed

    control_rank: ClassVar[int] = 50

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(SignFlip(target.strategy)) if has_negative_weight(target.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        weights = constant_weights(self.of)
        return None if weights is None else (2 * sum(weights) - weights[0], *(-weight for weight in weights[1:]))

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        combined = self.of.combine_stateful(logits, step, states)
        flipped: Tensor = 2 * self.inner_strength(logits, step) * logits[0] - combined
        return flipped.masked_fill(combined == -float("inf"), -float("inf"))
