"""RITUAL (Woo et al., 2405.17821): towards what the same image says when it is turned, mirrored or recolored.

    scores = z(y | image) + alpha z(y | varied image),      kept where p(y | image) >= beta max p

No contrast but an ensemble, and its weights sum to 1 + alpha = 4: identical branches are the reference at temperature
1/4. Compare it with `temperature_matched` before anything else. The variation is drawn once a prompt.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Note, Strategy
from decoding.formulas.masks import plausibility_mask
from icl.constraints import Fraction, NonNegative
from icl.edits import RandomAugmentation
from icl.registry import component
from icl.types import Prompt, Where

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "ritual")
@dataclass(frozen=True)
class RITUAL(Strategy):
    """Together with what a flipped, turned, recolored, blurred or cropped image says."""

    alpha: NonNegative = 3.0  # weight of the varied image; 0 is the reference under the mask
    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing
    images: Where = "query"  # which are varied

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, self.alpha

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(RandomAugmentation(), self.images)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        seen, varied = logits
        scores: Tensor = seen + self.alpha * varied
        return scores
