"""Faulty strategies."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from decoding import Strategy
from icl.types import Prompt


@dataclass(frozen=True)
class Faulty(Strategy):
    """A faulty strategy. how: it returns a wrong shape, or raises a Python exception."""

    how: Literal["shapeless", "raising"] = "raising"

    def branches(self, prompt: Prompt, note: object = None) -> tuple[Prompt, ...]:
        return prompt, prompt.without_images()

    def combine(self, logits: Tensor, step: int) -> Tensor:
        if self.how == "raising":
            return logits[0] * (1 // 0)
        return logits[0, :, :, None]


@dataclass(frozen=True)
class Growing(Strategy):
    """A strategy that grows with every construction."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", self.alpha + 1)
