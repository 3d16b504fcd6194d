"""Gating as in CHASD (2605.23344): a contrast only where the reference is unsure.

    scores = the method's where max p(y | prompt) < threshold, else the reference's, unmasked

Any method can be gated. The paper's threshold is not verified; this default is not its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from decoding.arms.gated import GatedStrategy
from decoding.arms.wrapper import StrategyWrapper
from decoding.base import StepState, Strategy
from decoding.strategies.vcd import VCD
from decoding.traits import Traits
from icl.constraints import Fraction
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "chasd")
@dataclass(frozen=True)
class CHASD(StrategyWrapper, GatedStrategy):
    """Another method where the reference is unsure of its token, and the reference where it is sure."""

    method: Annotated[Strategy, NestedComponent("strategy")] = field(
        default_factory=VCD
    )  # what is done where it is unsure
    threshold: Fraction = 0.9  # probability of the best token from which the reference is sure; 0: it always is

    @property
    def traits(self) -> Traits:
        return replace(super().traits, is_gated=True)

    @property
    def inner(self) -> Strategy:
        return self.method

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.inner_strength(logits, step).where(self.gate(logits, step), 1.0)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return self.gated_mask(reference, self._unsure(reference))

    def reference_decides(self, reference: "Tensor") -> "Tensor | None":
        """Where the reference is sure, and where the method is settled anyway."""
        sure, own = ~self._unsure(reference)[:, 0], self.method.reference_decides(reference)
        return sure if own is None else sure | own

    def gated_mask(self, reference: "Tensor", gate: "Tensor") -> "Tensor | None":
        own = self.method.mask(reference)
        return None if own is None else own | ~gate

    def gate(self, logits: "Tensor", step: int) -> "Tensor":
        return self._unsure(logits[0])

    def gated_scores(self, logits: "Tensor", step: int, gate: "Tensor", states: Sequence[StepState]) -> "Tensor":
        return self.method.combine_stateful(logits, step, states).where(gate, logits[0])

    def _unsure(self, reference: "Tensor") -> "Tensor":
        unsure: Tensor = reference.softmax(-1).amax(-1, keepdim=True) < self.threshold
        return unsure
