"""Plain average: the branches of a method with equal weights (a product of experts).

    scores = 1/n sum_b z_b

It measures the gain of several prompts without the weights of the method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import constant_weights, has_negative_weight
from decoding.base import StepState, Strategy, unit_strength
from decoding.controls.base import AllBranchesControl
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "plain_average")
@dataclass(frozen=True)
class PlainAverage(AllBranchesControl):
    """Control: the average of another strategy's branches, under its mask."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose branches are averaged

    control_rank: ClassVar[int] = 50

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(PlainAverage(target.strategy)) if not has_negative_weight(target.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        weights = constant_weights(self.of)
        return None if weights is None else (1 / len(weights),) * len(weights)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.apply_inner_mask(logits, step, states, logits.mean(0))
