"""Strategies that decide at each step which of two things to do: the decision apart, so that a control can make it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.base import StatefulStrategy, StepState

if TYPE_CHECKING:
    from torch import Tensor


class GatedStrategy(StatefulStrategy):
    """Base: `gate` decides by row, `gated` scores by a decision. `random_gate` puts a coin in the place of `gate`."""

    def gate(self, logits: "Tensor", step: int) -> "Tensor":
        """logits: [n, B, V] -> [B, 1] bool."""
        raise NotImplementedError

    def gated_scores(self, logits: "Tensor", step: int, gate: "Tensor", states: Sequence[StepState]) -> "Tensor":
        """The scores [B, V] under a decision."""
        raise NotImplementedError

    def gated_mask(self, reference: "Tensor", gate: "Tensor") -> "Tensor | None":
        """The mask under a decision, as `Strategy.mask`."""
        return self.mask(reference)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.gated_scores(logits, step, self.gate(logits, step), states)
