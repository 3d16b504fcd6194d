"""Beam search on the model's own distribution: the reference for arms with beam search.

`sampling: {beams: 4}` adds beam search to the combined scores of any other strategy (`decoding.engine.token_choice`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Strategy
from decoding.formulas.sampling import Beam, Sampler
from icl.registry import BeamCount, LengthPenalty, component

if TYPE_CHECKING:
    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "beam")
@dataclass(frozen=True)
class BeamDecoding(Strategy):
    """Beam search of the unchanged prompt."""

    beams: BeamCount = 4  # number of hypotheses; 1 is greedy
    length_penalty: LengthPenalty = 1.0  # exponent of the length that divides the log-probability; 0 prefers short

    control_rank: ClassVar[int] = 220

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """The reference with the beam search of the arm."""
        sampler = target.sampler
        if not isinstance(sampler, Beam):
            return None
        return target.with_strategy(BeamDecoding(sampler.beams, sampler.length_penalty), sampler, "sum")

    @property
    def sampler(self) -> Sampler:
        return Beam(self.beams, self.length_penalty)
