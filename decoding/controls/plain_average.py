"""Plain average: the branches of a method with equal weights, a product of experts.

    scores = 1/n sum_b z_b

What reading several prompts brings by itself. A method whose weights are worth something beats it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import subtracts, weights_of
from decoding.base import Strategy, Thread, ones
from decoding.controls.wrapped import ReadsAll
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "plain_average")
@dataclass(frozen=True)
class PlainAverage(ReadsAll):
    """Control: the branches of another strategy, averaged under its mask."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose branches they are

    rank: ClassVar[int] = 50

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(PlainAverage(held.strategy)) if not subtracts(held.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        own = weights_of(self.of)
        return None if own is None else (1 / len(own),) * len(own)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return ones(logits)

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        return self.ruled_out(logits, step, threads, logits.mean(0))
