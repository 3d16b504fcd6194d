"""Early exits: what the layers before the last would say, through the model's own output layer.

The layers are the even ones (0 is the embeddings) below the last; 0 is left out where the output layer is the
embeddings' own matrix, since there it says the token that was read. States are taken as they are, without the final
norm, as in the released code of DoLa. That the output layer is a matrix and nothing more is asked of the checkpoint
once: what it makes of the last state must be the logits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError

TOLERANCE = 1e-2
"""Of the logits' spread."""


class EarlyExitHead:
    """The early layers of a model."""

    def __init__(self, model: Any) -> None:
        self.head = model.get_output_embeddings()
        self.name = type(model).__name__
        if self.head is None:
            raise ModelError(f"{self.name} has no output layer that its early layers could speak through.")
        self.tied = self.head.weight is model.get_input_embeddings().weight
        self.checked = False

    def with_early_logits(self, logits: Tensor, states: Sequence[Tensor]) -> Tensor:
        """[R, T, 1 + early layers, V]. logits: [R, T, V]. states: [R, T, D] after each layer, the embeddings first."""
        if not self.checked:
            self._check(logits, states[-1])
        early = [self.head(states[layer]) for layer in range(2 if self.tied else 0, len(states) - 1, 2)]
        if not early:
            raise ModelError(f"{self.name} has {len(states) - 1} layers, too few for early ones among them.")
        return torch.stack([logits, *(one.to(logits.device) for one in early)], -2)

    def _check(self, logits: Tensor, last: Tensor) -> None:
        gap = float((self.head(last).to(logits.device) - logits).abs().max() / logits.float().std().clamp(min=1e-6))
        if gap > TOLERANCE * (1 if logits.dtype == torch.float32 else 10):
            raise ModelError(
                f"the output layer of {self.name} does more than its matrix (a cap, a scale): early layers cannot "
                "speak through it as the last does. Use another strategy."
            )
        self.checked = True
