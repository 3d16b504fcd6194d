"""Sampling from the model's own distribution.

Temperature, top-k, top-p (Holtzman et al. 2020, 1904.09751) and min-p (Nguyen et al. 2024, 2407.01082): the cuts act in
this order, each on what the one before left. `sampling` beside any strategy's parameters in a YAML does the same to
that strategy's combined scores; this component is the reference among sampled arms.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Strategy
from decoding.formulas.sampling import Sampler, Sampling
from icl.constraints import Count, Fraction, Temperature
from icl.registry import component

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "sampling")
@dataclass(frozen=True)
class SamplingDecoding(Strategy):
    """A random token of the prompt as it is, drawn from the query's own stream."""

    temperature: Temperature = 1.0  # divides the scores; 0 is greedy
    top_k: Count = 0  # the k best tokens; 0: all
    top_p: Fraction = 1.0  # the fewest best tokens that hold this probability together; 1: all
    min_p: Fraction = 0.0  # at least this share of the best token's probability; 0: all

    control_rank: ClassVar[int] = 210

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """The reference, sampled as the arm is."""
        sampler = target.sampler
        if not target.is_sampled or not isinstance(sampler, Sampling):
            return None
        own = SamplingDecoding(sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p)
        return target.with_strategy(own, sampler, "sum")

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)
