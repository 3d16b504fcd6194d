"""PBA (Yin et al., NeurIPS 2025, 2504.10020): the prompt asks for the answer that a contrast was found to favor.

The question is followed by " Answer the question using a single word or phrase. Answer yes whenever possible.", as
released. A spurious gain that beats a method's shows that the method's may be a push towards yes as well. The prompt
as it is, is read for traces, and has no weight.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.base import Note, Strategy
from decoding.prompt_edits import wrap_question
from decoding.traits import Traits
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

YES = " Answer the question using a single word or phrase. Answer yes whenever possible."


@component("strategy", "pba")
@dataclass(frozen=True)
class PBA(Strategy):
    """Control: the question with a request to say yes whenever possible."""

    suffix: str = YES  # after the query's question

    traits = Traits(is_control=True)

    @property
    def weights(self) -> tuple[float, float]:
        return 0.0, 1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, wrap_question(prompt, after=self.suffix)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        return logits[1]
