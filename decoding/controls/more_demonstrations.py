"""More demonstrations: the reference with twice as many demonstrations.

A prompt of twice the length costs as much as a second branch. The run uses the arm's own retriever, so the first half
are the demonstrations of the arm. If the pool has fewer examples, all are used, and the sample records their number.
At 0 shots this is the reference.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from decoding import Arm, ControlTarget, Strategy, Traits
from icl import component


@component("strategy", "more_demonstrations")
@dataclass(frozen=True)
class MoreDemonstrations(Strategy):
    """Control: the reference with twice the demonstrations, at the cost of a contrast of two branches."""

    factor: Annotated[int, Ge(2)] = 2  # multiplies the number of shots of the run

    control_rank: ClassVar[int] = 240

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """For runs with demonstrations."""
        return None if target.shots == 0 else target.with_strategy(MoreDemonstrations(), target.sampler)

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, demonstration_factor=self.factor)
