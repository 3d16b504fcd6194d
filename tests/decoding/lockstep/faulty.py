"""Strategies whose code is wrong, each in its own way."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from decoding import Strategy
from icl.types import Prompt


@dataclass(frozen=True)
class Faulty(Strategy):
    """how: a shape that no scores have, or an exception of Python's own."""

    how: Literal["shapeless", "raising"] = "raising"

    def branches(self, prompt: Prompt, note: object = None) -> tuple[Prompt, ...]:
        return prompt, prompt.without_images()

    def combine(self, logits: Tensor, step: int) -> Tensor:
        if self.how == "raising":
            return logits[0] * (1 // 0)
        return logits[0, :, :, None]


@dataclass(frozen=True)
class Growing(Strategy):
    """More than what it is told, each time it is made."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", self.alpha + 1)
