"""Temperature matched: the reference alone, at the temperature that a method's weights hide.

Where the branches agree, weights that sum to s give s z: the reference at temperature T = 1 / s. This control is that
temperature without the contrast, the method's mask kept. Where s varies, it varies with it, by row and step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import least_strength, strength_of
from decoding.base import Strategy, Thread
from decoding.controls.wrapped import Wrapped
from icl.errors import ConfigError
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "temperature_matched")
@dataclass(frozen=True)
class TemperatureMatched(Wrapped):
    """Control: the reference at the hidden temperature of another strategy, under that strategy's mask.

    Defined where the weights sum to more than zero; `entropy_matched` stands in for the others. Raises ConfigError.
    """

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose temperature it is

    rank: ClassVar[int] = 20
    keeps_best: ClassVar[bool] = True

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(TemperatureMatched(held.strategy)) if least_strength(held.strategy) > 0 else None

    def __post_init__(self) -> None:
        strength = strength_of(self.of)
        if strength is not None and strength <= 0:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' sum to {strength:g}, and temperature_matched is "
                "defined for sums above 0 alone. Use the control entropy_matched."
            )

    @property
    def reads_all(self) -> bool:
        return self.of.masks_in_combine or strength_of(self.of) is None

    @property
    def weights(self) -> tuple[float, ...] | None:
        strength = strength_of(self.of)
        return None if strength is None else self.reference_alone(strength)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        strength = strength_of(self.of)
        scores = logits[0] * (self.of.strength(logits, step) if strength is None else strength)
        return self.ruled_out(logits, step, threads, scores)
