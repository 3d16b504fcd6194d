"""More demonstrations: the prompt as it is, with twice as many of them.

What a contrast spends on a second branch could have been spent on a prompt of twice the length. The run retrieves them
by the arm's own retriever, so that the first half are the arm's demonstrations; where the pool has fewer, all that it
has are shown, and the sample's record says so. Without demonstrations it is the reference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from decoding.base import Strategy
from decoding.traits import Traits
from icl.registry import component

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "more_demonstrations")
@dataclass(frozen=True)
class MoreDemonstrations(Strategy):
    """Control: the reference with twice the demonstrations, as dear as a contrast of two branches."""

    times: Annotated[int, Ge(2)] = 2  # the run's number of shots

    control_rank: ClassVar[int] = 240

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """Where the run has demonstrations that could be doubled."""
        return None if target.shots == 0 else target.with_strategy(MoreDemonstrations(), target.sampler)

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, demonstration_factor=self.times)
