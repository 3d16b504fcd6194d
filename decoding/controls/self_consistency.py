"""Self-consistency (Wang et al., ICLR 2023, 2203.11171): several sampled answers of the prompt as it is, and a vote.

A contrast of two branches pays for two forwards a token. So does this control with two samples, and it contrasts
nothing. Answers are equal where they differ in case, blanks or a full stop alone. Two answers that differ are a tie: it
goes to the one of the greater log-probability a step (see `decoding.engine.voting`). The first sample draws from the
query's own stream, as `sampling` does. Option scores are not sampled: there it is the reference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from decoding.arms.inspection import branch_count
from decoding.base import Strategy
from decoding.formulas.sampling import Sampler, Sampling
from decoding.traits import Traits
from icl.constraints import Positive
from icl.registry import component, parameter

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "self_consistency")
@dataclass(frozen=True)
class SelfConsistency(Strategy):
    """Control: the most frequent of several sampled answers; as dear as a contrast of so many branches."""

    count: Annotated[int, Ge(2)] = parameter("samples", 2)  # sampled answers
    temperature: Positive = 0.7  # of the samples, where `sampling` beside it does not say

    control_rank: ClassVar[int] = 230

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """With a sample a branch: at the arm's cost."""
        if target.options:
            return None
        voters = SelfConsistency(max(2, branch_count(target.strategy)))
        return target.with_strategy(voters, target.sampler if target.is_sampled else voters.sampler, "sum")

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, num_samples=self.count)

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature)
