"""Domain-conditional PMI (Holtzman et al., EMNLP 2021, 2104.08315): options relative to their probability a priori.

    score = log p(option | prompt) - log p(option | premise)

Options with the same meaning share its probability, and common words win over rare ones. Dividing by the probability
after a short text about the domain leaves what the prompt adds. Here this premise replaces the question, without the
query's image and, as in the paper, without demonstrations.

No released code was compared.
"""

from dataclasses import dataclass
from typing import Literal

from decoding import Note, Strategy, Traits, remove_part, replace_question
from icl import Prompt, Tensor, component


@component("strategy", "pmi")
@dataclass(frozen=True)
class PMI(Strategy):
    """Log-probability of an option minus that after a premise without content. For option scoring only."""

    premise: str = "The answer is:"  # replaces the query's question
    without: Literal["image", "both"] = "both"  # what else is removed; image: demonstrations remain

    traits = Traits(combines_options=True, requires_options=True)

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, replace_question(remove_part(prompt, self.without), self.premise)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        scores: Tensor = logits[0] - logits[1]
        return scores
