"""Temperature matched: the reference at the hidden temperature of a method's weights.

If the branches agree, weights that sum to s give s z, the reference at temperature T = 1 / s. This control has this
temperature and the mask of the method, without the contrast. If s varies by row and step, so does the temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import constant_strength, min_strength
from decoding.base import StepState, Strategy, Traits
from decoding.controls.base import WrappingControl
from icl.errors import ConfigError
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "temperature_matched")
@dataclass(frozen=True)
class TemperatureMatched(WrappingControl):
    """Control: the reference at the hidden temperature of another strategy, under that strategy's mask.

    Raises ConfigError if the weights sum to zero or less; `entropy_matched` is defined for those strategies.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose temperature is used

    control_rank: ClassVar[int] = 20

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(TemperatureMatched(target.strategy)) if min_strength(target.strategy) > 0 else None

    def __post_init__(self) -> None:
        strength = constant_strength(self.of)
        if strength is not None and strength <= 0:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' sum to {strength:g}, but temperature_matched "
                "needs a sum above 0. Use the control entropy_matched."
            )

    @property
    def needs_all_branches(self) -> bool:
        return self.of.traits.masks_in_combine or constant_strength(self.of) is None

    @property
    def weights(self) -> tuple[float, ...] | None:
        strength = constant_strength(self.of)
        return None if strength is None else self.reference_weights(strength)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        strength = constant_strength(self.of)
        scores = logits[0] * (self.of.strength(logits, step) if strength is None else strength)
        return self.apply_inner_mask(logits, step, states, scores)
