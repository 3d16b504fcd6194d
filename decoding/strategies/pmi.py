"""Domain-conditional PMI (Holtzman et al., EMNLP 2021, 2104.08315): options against what they are likely anyway.

    score = log p(option | prompt) - log p(option | premise)

Options that say one thing in different words share its probability, and common words win over rare ones; divided by
their probability after a short text that tells the domain alone they compete by what the prompt adds. Here the premise
stands in the place of the question, without the query's image and, as in the paper, without demonstrations.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Note, Strategy
from decoding.prompt_edits import remove_part, replace_question
from decoding.traits import Traits
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "pmi")
@dataclass(frozen=True)
class PMI(Strategy):
    """Option scores less the log-probability of the option after a premise that says nothing. Options alone."""

    premise: str = "The answer is:"  # in the place of the query's question
    without: Literal["image", "both"] = "both"  # what else the premise lacks; image: demonstrations stay

    traits = Traits(combines_options=True, requires_options=True)

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, replace_question(remove_part(prompt, self.without), self.premise)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        scores: Tensor = logits[0] - logits[1]
        return scores
