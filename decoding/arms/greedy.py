"""Greedy decoding: the most probable token of the model, the reference of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from decoding import Arm, ControlTarget, Greedy, Traits
from icl import Strategy, component


@component("strategy", "greedy")
@dataclass(frozen=True)
class GreedyDecoding(Strategy):
    """Greedy decoding of the unchanged prompt. It needs no logits, so any model can run it."""

    traits = Traits(needs=frozenset({"generate"}))
    control_rank: ClassVar[int] = 200

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(GreedyDecoding(), Greedy())
