"""Strategies of two branches: the prompt, and the same prompt without what its answer should come from."""

from typing import TYPE_CHECKING

from decoding.base import Note, Strategy, ones
from decoding.prompt_edits import Without, without
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class AgainstBare(Strategy):
    """Base: the field `without` says what the second branch lacks."""

    without: Without

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, without(prompt, self.without)


class AdaptivelyAgainstBare(AgainstBare):
    """Base: the same, with weights that vary from row to row or token to token and sum to one."""

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return ones(logits)
