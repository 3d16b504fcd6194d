"""A strategy that rules out every token from one step on."""

from dataclasses import dataclass

from torch import Tensor

from decoding import Strategy
from icl.types import Prompt


@dataclass(frozen=True)
class Poison(Strategy):
    """Fails at step `at`. With two branches the second one is the prompt without its images."""

    at: int = 2
    branch_count: int = 1

    def branches(self, prompt: Prompt, note: object = None) -> tuple[Prompt, ...]:
        return (prompt, prompt.without_images())[: self.branch_count]

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0] if step < self.at else logits[0] - float("inf")
