"""Beam search on the model's own distribution: the reference among arms that search.

`sampling: {beams: 4}` beside any strategy's parameters in a YAML does the same to that strategy's combined scores
(`decoding.engine.beam_search`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Strategy
from decoding.formulas.sampling import Beam, Sampler
from icl.constraints import BeamCount, LengthPenalty
from icl.registry import component

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "beam")
@dataclass(frozen=True)
class BeamDecoding(Strategy):
    """The most probable answer that a search with several beams finds."""

    beams: BeamCount = 4  # hypotheses that run side by side; 1 is greedy
    length_penalty: LengthPenalty = (
        1.0  # power of the length that a sum of log-probabilities is divided by; 0 prefers short
    )

    control_rank: ClassVar[int] = 220

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """The reference, searched as the arm is."""
        sampler = target.sampler
        if not isinstance(sampler, Beam):
            return None
        return target.with_strategy(BeamDecoding(sampler.beams, sampler.length_penalty), sampler, "sum")

    @property
    def sampler(self) -> Sampler:
        return Beam(self.beams, self.length_penalty)
