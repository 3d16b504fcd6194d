"""Base class of strategies with a gate, a decision per row and step. Control `random_gate` replaces the decision."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.base import StatefulStrategy, StepState

if TYPE_CHECKING:
    from torch import Tensor


class GatedStrategy(StatefulStrategy):
    """Base of strategies whose scores depend on a decision per row: `gate` makes it, `gated_scores` uses it."""

    def gate(self, logits: "Tensor", step: int) -> "Tensor":
        """The decision of each row: logits [n, B, V] -> [B, 1] bool."""
        raise NotImplementedError

    def gated_scores(self, logits: "Tensor", step: int, gate: "Tensor", states: Sequence[StepState]) -> "Tensor":
        """Combined scores under a decision: logits [n, B, V] -> [B, V]."""
        raise NotImplementedError

    def gated_mask(self, reference: "Tensor", gate: "Tensor") -> "Tensor | None":
        """The mask under a decision (see `Strategy.mask`)."""
        return self.mask(reference)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.gated_scores(logits, step, self.gate(logits, step), states)
