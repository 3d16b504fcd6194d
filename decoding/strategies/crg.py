"""Contrastive region guidance (Wan et al., ECCV 2024, 2403.02325): contrast with a region blacked out.

    scores = (1 + alpha) z(y | image) - alpha z(y | image, region blacked out)

There is no plausibility mask. The paper blacks out boxes that the question names or a detector finds. Here the box is a
parameter, by default the whole image. The color is almost black, because some processors treat zeros as padding.

Differs from the released code in logits processors, which act on the combined scores (there on each branch), in the
box, which is a parameter, and in its color.
"""

from dataclasses import dataclass
from typing import ClassVar

from decoding import Note, Strategy
from decoding.branch import WHOLE
from icl import Fraction, NonNegative, Prompt, Tensor, component
from icl.edits import RegionMask

ALMOST_BLACK = 1


@component("strategy", "crg")
@dataclass(frozen=True)
class CRG(Strategy):
    """Contrast with the query's image with a region blacked out."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference
    region: tuple[Fraction, Fraction, Fraction, Fraction] = WHOLE  # left, top, right, bottom as fractions of the sides

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    def __post_init__(self) -> None:
        RegionMask(*self.region)  # refuses an inverted box before anything runs

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(RegionMask(*self.region, ALMOST_BLACK, ALMOST_BLACK, ALMOST_BLACK), "query")

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, masked = logits
        scores: Tensor = (1 + self.alpha) * original - self.alpha * masked
        return scores
