"""Contrastive example decoding (MVCD, Pang et al., ICASSP 2025, 2502.11751): what the demonstrations add.

    scores = l(y | demonstrations, query) - l(y | query),      kept where p(y | demonstrations, query) >= beta max p

The weights sum to zero: there is no base term, and where the demonstrations change nothing every survivor scores
alike. The paper first turns images into text (tags, attributes, captions): such texts are inputs here, through
transforms and tasks. The released code ends where either branch would; here the combined token decides.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.base import Note, Strategy
from decoding.formulas.masks import plausibility_mask
from decoding.prompt_edits import remove_demonstrations
from icl.constraints import Fraction
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "ced")
@dataclass(frozen=True)
class CED(Strategy):
    """The difference that demonstrations make, and nothing else, among plausible tokens (MVCD)."""

    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, -1.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_demonstrations(prompt)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        shown, bare = logits.log_softmax(-1)
        scores: Tensor = shown - bare
        return scores
