"""Gating as in CHASD (2605.23344): a contrast only at steps where the reference is not confident.

    scores = the method's     if max p(y | prompt) < threshold
             the reference's         otherwise, without a mask

Any strategy can be gated. The paper's threshold is not verified; the default is not its number.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from decoding import GatedStrategy, StepState, Strategy, StrategyWrapper, Traits
from decoding.strategies.vcd import VCD
from icl import Fraction, NestedComponent, Tensor, component


@component("strategy", "chasd")
@dataclass(frozen=True)
class CHASD(StrategyWrapper, GatedStrategy):
    """Another strategy at steps where the reference is not confident, and the reference at all others."""

    weights: ClassVar[None] = None

    method: Annotated[Strategy, NestedComponent("strategy")] = field(default_factory=VCD)  # the gated strategy
    threshold: Fraction = 0.9  # probability of the best token at which the reference is confident; 0 is always

    @property
    def traits(self) -> Traits:
        return replace(super().traits, is_gated=True)

    @property
    def inner(self) -> Strategy:
        return self.method

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.inner_strength(logits, step).where(self.gate(logits, step), 1.0)

    def mask(self, reference: Tensor) -> Tensor | None:
        return self.gated_mask(reference, self._is_open(reference))

    def reference_decides(self, reference: Tensor) -> Tensor | None:
        """Rows with a closed gate, and those that the method itself leaves to the reference."""
        is_closed, decides = ~self._is_open(reference)[:, 0], self.method.reference_decides(reference)
        return is_closed if decides is None else is_closed | decides

    def gated_mask(self, reference: Tensor, gate: Tensor) -> Tensor | None:
        mask = self.method.mask(reference)
        return None if mask is None else mask | ~gate

    def gate(self, logits: Tensor, step: int) -> Tensor:
        return self._is_open(logits[0])

    def gated_scores(self, logits: Tensor, step: int, gate: Tensor, states: Sequence[StepState]) -> Tensor:
        return self.method.combine_stateful(logits, step, states).where(gate, logits[0])

    def _is_open(self, reference: Tensor) -> Tensor:
        return reference.softmax(-1).amax(-1, keepdim=True) < self.threshold
