"""Contrastive example decoding (MVCD, Pang et al., ICASSP 2025, 2502.11751): what the demonstrations add.

    scores = l(y | demonstrations, query) - l(y | query),      if p(y | demonstrations, query) >= beta max p

The weights sum to zero, so surviving tokens have equal scores if the demonstrations change nothing. The paper first
converts images to text (tags, attributes, captions). Here such texts are inputs, made by transforms and tasks. The
released code ends an answer if either branch ends it. Here the combined token decides.

Differs from the released code in the end of an answer (see above), in the prompts, which differ in the demonstrations
only (there also in the system text), in the visual texts, which are inputs, and in masked tokens, which score -inf
(there -1000).
"""

from dataclasses import dataclass

from decoding import Note, Strategy, plausibility_mask, remove_demonstrations
from icl import Fraction, Prompt, Tensor, component


@component("strategy", "ced")
@dataclass(frozen=True)
class CED(Strategy):
    """Difference that the demonstrations make, among plausible tokens (MVCD)."""

    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_demonstrations(prompt)

    def mask(self, reference: Tensor) -> Tensor | None:
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        with_demos, without_demos = logits.log_softmax(-1)
        scores: Tensor = with_demos - without_demos
        return scores
