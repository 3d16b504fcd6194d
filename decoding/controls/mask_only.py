"""Mask only: a method's own plausibility mask on the reference's scores, without its contrast.

Much of what contrastive decoding gains over sampling comes from the mask, which makes sampling nearly greedy (Yin et
al. 2025, 2504.10020). A method that does not beat this control owes its gain to the mask. A mask that reads other
branches keeps reading the real ones: identical branches would switch it off, and the control would isolate nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.base import StepState, Strategy
from decoding.controls.base import WrappingControl
from decoding.traits import Traits
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "mask_only")
@dataclass(frozen=True)
class MaskOnly(WrappingControl):
    """Control: the mask of another strategy on the reference's own scores."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose mask it is

    control_rank: ClassVar[int] = 10

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(MaskOnly(target.strategy))

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.apply_inner_mask(logits, step, states, logits[0])
