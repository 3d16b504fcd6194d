"""PBA (Yin et al., NeurIPS 2025, 2504.10020): the prompt asks for the answer that contrasts favor.

The question is followed by " Answer the question using a single word or phrase. Answer yes whenever possible.", as
released. If this gains more than a method, the gain of the method may be a bias towards yes as well. The unchanged
prompt is branch 0, for traces, and has no weight.

Differs from the released code in nothing known: the suffix is as released.
"""

from dataclasses import dataclass

from decoding import Note, Strategy, Traits, wrap_question
from icl import Prompt, Tensor, component

SUFFIX = " Answer the question using a single word or phrase. Answer yes whenever possible."


@component("strategy", "pba")
@dataclass(frozen=True)
class PBA(Strategy):
    """Control: the question with a request to answer yes whenever possible."""

    suffix: str = SUFFIX  # text after the query's question

    traits = Traits(is_control=True)

    @property
    def weights(self) -> tuple[float, float]:
        return 0.0, 1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, wrap_question(prompt, after=self.suffix)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[1]
