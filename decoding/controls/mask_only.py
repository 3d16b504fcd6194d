"""Mask only: the plausibility mask of a method on the scores of the reference, without the contrast.

Much of the gain of contrastive decoding over sampling comes from the mask, which makes sampling almost greedy (Yin et
al. 2025, 2504.10020). The gain of a method that is not better than this control comes from its mask. A mask that reads
other branches still reads them here, because identical branches would disable it.

Differs from the released code in the second branch (there an identical one with alpha 1, which disables a mask that
reads it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.base import StepState, Strategy, Traits
from decoding.controls.base import WrappingControl
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "mask_only")
@dataclass(frozen=True)
class MaskOnly(WrappingControl):
    """Control: the mask of another strategy on the scores of the reference."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose mask is used

    control_rank: ClassVar[int] = 10

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(MaskOnly(target.strategy))

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.apply_inner_mask(logits, step, states, logits[0])
