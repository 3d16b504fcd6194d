"""Sign flip: the method's shift of the reference, reflected.

    scores = s z_0 - (method's scores - s z_0),      s: the sum of its weights

For VCD that is (1 - alpha) z_0 + alpha z_1, towards the noised image instead of away from it. A method that gains as
much with its sign turned does not gain by its direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import subtracts, weights_of
from decoding.base import Strategy, Thread
from decoding.controls.wrapped import ReadsAll
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "sign_flip")
@dataclass(frozen=True)
class SignFlip(ReadsAll):
    """Control: another strategy with the shift that it makes turned around."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose shift it is

    rank: ClassVar[int] = 50

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(SignFlip(held.strategy)) if subtracts(held.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        own = weights_of(self.of)
        return None if own is None else (2 * sum(own) - own[0], *(-weight for weight in own[1:]))

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        own = self.of.follow(logits, step, threads)
        flipped: Tensor = 2 * self.inner_strength(logits, step) * logits[0] - own
        return flipped.masked_fill(own == -float("inf"), -float("inf"))
