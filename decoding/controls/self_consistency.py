"""Self-consistency (Wang et al., ICLR 2023, 2203.11171): a majority vote over sampled answers.

A contrast of two branches costs two forward passes per token, and so do two samples. `decoding.engine.voting` defines
equal answers and ties. The first sample uses the random stream of the query, as `sampling` does. Option scores are not
sampled, so there this is the reference.

No released code was compared.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from decoding import Arm, ControlTarget, Sampler, Sampling, Strategy, Traits, branch_count
from icl import Positive, component, parameter


@component("strategy", "self_consistency")
@dataclass(frozen=True)
class SelfConsistency(Strategy):
    """Control: the most frequent of several sampled answers, at the cost of a contrast of as many branches."""

    num_samples: Annotated[int, Ge(2)] = parameter("samples", 2)  # number of sampled answers
    temperature: Positive = 0.7  # of the samples, unless the arm has the key `sampling`

    control_rank: ClassVar[int] = 230

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """One sample per branch of the target, at equal cost."""
        if target.options:
            return None
        control = SelfConsistency(max(2, branch_count(target.strategy)))
        return target.with_strategy(control, target.sampler if target.is_sampled else control.sampler, "sum")

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, num_samples=self.num_samples)

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature)
