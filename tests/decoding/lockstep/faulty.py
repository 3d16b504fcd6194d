"""A strategy whose code is wrong, each way in its turn."""

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
        return prompt, prompt.without_pictures()

    def combine(self, logits: Tensor, step: int) -> Tensor:
        if self.how == "raising":
            return logits[0] * (1 // 0)
        return logits[0, :, :, None]
