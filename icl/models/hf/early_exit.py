"""Early exits: logits of the layers before the last, computed with the model's output layer.

The early layers are the even ones below the last, where 0 is the embeddings. Layer 0 is left out if the output layer
shares its matrix with the embeddings, because it would then predict the token that was read. As in the released code of
DoLa, hidden states are used without the final norm. A check makes sure once that the output layer is a plain matrix:
applied to the last hidden state, it must give the logits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError

TOLERANCE = 1e-2
"""Maximum difference, as a share of the standard deviation of the logits."""


class EarlyExitHead:
    """The output layer of a model, applied to its early layers."""

    def __init__(self, model: Any) -> None:
        self.head = model.get_output_embeddings()
        self.name = type(model).__name__
        if self.head is None:
            raise ModelError(f"{self.name} has no output layer, which early exits need.")
        self.tied = self.head.weight is model.get_input_embeddings().weight
        self.checked = False

    def with_early_logits(self, logits: Tensor, states: Sequence[Tensor]) -> Tensor:
        """Logits of the last and the early layers: [R, T, 1 + early layers, V].

        Args:
            logits: [R, T, V] of the last layer.
            states: [R, T, D] after each layer, the embeddings first.

        Raises:
            ModelError: The model has no early layers, or its output layer is not a plain matrix.
        """
        if not self.checked:
            self._check(logits, states[-1])
        early = [self.head(states[layer]) for layer in range(2 if self.tied else 0, len(states) - 1, 2)]
        if not early:
            raise ModelError(f"{self.name} has {len(states) - 1} layers, too few for early exits.")
        return torch.stack([logits, *(one.to(logits.device) for one in early)], -2)

    def _check(self, logits: Tensor, last: Tensor) -> None:
        gap = float((self.head(last).to(logits.device) - logits).abs().max() / logits.float().std().clamp(min=1e-6))
        if gap > TOLERANCE * (1 if logits.dtype == torch.float32 else 10):
            raise ModelError(
                f"the output layer of {self.name} does more than its matrix (a cap, a scale), so early-exit "
                "logits cannot be computed. Use another strategy."
            )
        self.checked = True
