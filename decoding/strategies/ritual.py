"""RITUAL (Woo et al., 2405.17821): ensemble of an image and a random augmentation of it.

    scores = z(y | image) + alpha z(y | augmented image),      if p(y | image) >= beta max p

The weights sum to 1 + alpha = 4, so identical branches are the reference at temperature 1/4. Compare it with
`temperature_matched` first. The augmentation is drawn once per prompt.

Differs from the released code in the augmentation's random numbers, which come from the query's stream.
"""

from dataclasses import dataclass
from typing import ClassVar

from decoding import Note, PlausibleStrategy
from icl import Fraction, NonNegative, Prompt, Tensor, component
from icl.edits import RandomAugmentation
from icl.types import Where


@component("strategy", "ritual")
@dataclass(frozen=True)
class RITUAL(PlausibleStrategy):
    """Ensemble with a flipped, rotated, recolored, blurred or cropped image."""

    alpha: NonNegative = 3.0  # weight of the augmented image; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    images: Where = "query"  # which images are augmented

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, self.alpha

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(RandomAugmentation(), self.images)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, augmented = logits
        scores: Tensor = original + self.alpha * augmented
        return scores
