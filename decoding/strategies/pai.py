"""Pay attention to image (Liu et al., ECCV 2024, 2407.21771), its logit part: guidance away from the text alone.

    scores = gamma [l(y | image) - l(y | no image)] + l(y | no image),   kept where p(y | image) >= beta max p

The paper also raises the attention that the last token pays to image tokens, which needs a model's own code and is
not here. At gamma 1 the mask stays (the released code drops it).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Note, Strategy
from decoding.formulas.masks import plausibility_mask
from decoding.prompt_edits import remove_query_image
from icl.constraints import Fraction, NonNegative
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "pai")
@dataclass(frozen=True)
class PAI(Strategy):
    """Guided away from the text alone; without the paper's change of attention.

    Presets. readme, argparse: the two defaults of the released code.
    """

    gamma: NonNegative = 1.1  # guidance; 1 is the reference under the mask
    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing

    presets: ClassVar[dict[str, dict[str, float]]] = {"readme": {"gamma": 1.1}, "argparse": {"gamma": 2.0}}
    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 1.0}

    @property
    def weights(self) -> tuple[float, float]:
        return self.gamma, 1 - self.gamma

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_query_image(prompt)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        seen, text = logits.log_softmax(-1)
        scores: Tensor = self.gamma * (seen - text) + text
        return scores
