"""Contrastive region guidance (Wan et al., ECCV 2024, 2403.02325): away from what is said with the region blacked out.

    scores = (1 + alpha) z(y | image) - alpha z(y | image, region masked)

No mask. The paper masks boxes that the question names or a detector finds; here the box is a parameter, by default the
whole image. Not quite black: some processors take an image of zeros for padding.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Note, Strategy
from icl.constraints import Fraction, NonNegative
from icl.edits import RegionMask
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

ALMOST_BLACK = 1


@component("strategy", "crg")
@dataclass(frozen=True)
class CRG(Strategy):
    """Away from what is said when a region of the query's image is blacked out."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference
    region: tuple[Fraction, Fraction, Fraction, Fraction] = (
        0.0,
        0.0,
        1.0,
        1.0,
    )  # left, top, right, bottom: shares of the sides

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    def __post_init__(self) -> None:
        RegionMask(*self.region)  # a box turned around is an error before anything runs

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(RegionMask(*self.region, ALMOST_BLACK, ALMOST_BLACK, ALMOST_BLACK), "query")

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        seen, masked = logits
        scores: Tensor = (1 + self.alpha) * seen - self.alpha * masked
        return scores
