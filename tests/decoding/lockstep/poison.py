"""A strategy that rules out every token from one step on."""

from dataclasses import dataclass

from torch import Tensor

from decoding import Strategy


@dataclass(frozen=True)
class Poison(Strategy):
    """Fails at `at`, where the query is among `whom`."""

    at: int = 2

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0] if step < self.at else logits[0] - float("inf")
