"""Base classes of strategies that contrast the prompt with the same prompt without one of its parts."""

from typing import TYPE_CHECKING

from decoding.base import Note, Strategy, unit_strength
from decoding.prompt_edits import AblatedPart, remove_part
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class AblationContrast(Strategy):
    """Base of strategies whose second branch lacks what the field `without` names."""

    without: AblatedPart

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_part(prompt, self.without)


class AdaptiveAblationContrast(AblationContrast):
    """Base of ablation contrasts whose weights vary from row to row or token to token and sum to one."""

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)
