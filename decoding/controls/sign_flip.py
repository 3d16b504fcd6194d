"""Sign flip: the method's shift of the reference, reflected.

    scores = s z_0 - (method's scores - s z_0),      s: the sum of its weights

For VCD that is (1 - alpha) z_0 + alpha z_1, towards the noised image instead of away from it. A method that gains as
much with its sign turned does not gain by its direction.
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

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "sign_flip")
@dataclass(frozen=True)
class SignFlip(AllBranchesControl):
    """Control: another strategy with the shift that it makes turned around."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose shift it is

    control_rank: ClassVar[int] = 50

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(SignFlip(target.strategy)) if has_negative_weight(target.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        own = constant_weights(self.of)
        return None if own is None else (2 * sum(own) - own[0], *(-weight for weight in own[1:]))

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        own = self.of.combine_stateful(logits, step, states)
        flipped: Tensor = 2 * self.inner_strength(logits, step) * logits[0] - own
        return flipped.masked_fill(own == -float("inf"), -float("inf"))
