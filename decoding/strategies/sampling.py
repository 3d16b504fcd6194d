"""Decoding without branches: sampling and beam search."""

from dataclasses import dataclass
from typing import ClassVar

from decoding import Arm, Beam, ControlTarget, Sampler, Sampling, Strategy
from icl import BeamCount, Count, Fraction, LengthPenalty, Temperature, component


@component("strategy", "sampling")
@dataclass(frozen=True)
class SamplingDecoding(Strategy):
    """Sampling from the unchanged prompt, with the random stream of the query.

    Sampling from the model's own distribution.

    Temperature, top-k, top-p (Holtzman et al. 2020, 1904.09751) and min-p (Nguyen et al. 2024, 2407.01082) act in this
    order. The key `sampling` does the same to the combined scores of any strategy. This component is the reference for
    sampled arms.

    Differs from the released code in ties with the last token of a cut, which stay, and in the random numbers, one per
    step from the query's stream (transformers has the same cuts in the same order).
    """

    temperature: Temperature = 1.0  # divides the scores; 0 is greedy
    top_k: Count = 0  # number of best tokens that are kept; 0 keeps all
    top_p: Fraction = 1.0  # cumulative probability of the best tokens that are kept; 1 keeps all
    min_p: Fraction = 0.0  # minimal probability relative to the best token; 0 keeps all

    control_rank: ClassVar[int] = 210

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """The reference with the sampler of the arm."""
        sampler = target.sampler
        if not target.is_sampled or not isinstance(sampler, Sampling):
            return None
        reference = SamplingDecoding(sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p)
        return target.with_strategy(reference, sampler, "sum")

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)


@component("strategy", "beam")
@dataclass(frozen=True)
class BeamDecoding(Strategy):
    """Beam search of the unchanged prompt.

    Beam search on the model's own distribution: the reference for arms with beam search.

    `sampling: {beams: 4}` adds beam search to the combined scores of any other strategy
    (`decoding.engine.token_choice`).
    """

    beams: BeamCount = 4  # number of hypotheses; 1 is greedy
    length_penalty: LengthPenalty = 1.0  # exponent of the length that divides the log-probability; 0 prefers short

    control_rank: ClassVar[int] = 220

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """The reference with the beam search of the arm."""
        sampler = target.sampler
        if not isinstance(sampler, Beam):
            return None
        return target.with_strategy(BeamDecoding(sampler.beams, sampler.length_penalty), sampler, "sum")

    @property
    def sampler(self) -> Sampler:
        return Beam(self.beams, self.length_penalty)
