"""CRoPS (2601.00659) without attention: two negatives, one for the language prior and one for image statistics.

    l = log p(y | prompt)      l_lang = log p(y | no image)      l_stat = log p(y | edited image)
    g = exp(-rate t), t from 1,        f = l + (1 - g) / g (l - l_lang)
    scores = 2 f - l_stat,             if p(y) >= beta max p
    scores = l                         where max p > confident

The language prior grows in long answers, so its weight grows with the step t.

Differs from the released code in both negatives, which need masks of attention there: the first one also sees only its
least attended text tokens from layer 2 on, and the second one is the image without its 25 % most attended tokens. Here
the first is the prompt without the query's image, and the second an edit of it. The released code has no batches.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from decoding.base import Note, Strategy, unit_strength
from decoding.formulas.masks import plausibility_mask
from decoding.formulas.row_steps import weight_per_row
from decoding.prompt_edits import remove_query_image
from icl.constraints import Fraction, Positive
from icl.edits import Edit, ShuffledPatches
from icl.registry import NestedComponent, component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "crops")
@dataclass(frozen=True)
class CRoPS(Strategy):
    """Contrast with the prompt without the image and with an edited image, stronger at later tokens."""

    rate: Positive = 0.01  # growth of the first negative per token; the released value
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    confident: Fraction = 0.95  # probability of the best token above which the reference is used
    edit: Annotated[Edit, NestedComponent("edit")] = field(default_factory=ShuffledPatches)  # of the second negative

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt, Prompt]:
        return prompt, remove_query_image(prompt), prompt.edit(self.edit, "query")

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def reference_decides(self, reference: "Tensor") -> "Tensor | None":
        confident = self._is_confident(reference)[:, 0]
        decides = super().reference_decides(reference)
        return confident if decides is None else confident | decides

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        """logits: [3, B, V] float32 -> scores [B, V]."""
        reference, language, statistics = logits.log_softmax(-1)
        growth = weight_per_row(step, lambda number: math.expm1(self.rate * (number + 1)), reference)  # (1 - g) / g
        scores: Tensor = 2 * (reference + growth * (reference - language)) - statistics
        return scores.where(~self._is_confident(logits[0]), reference)

    def _is_confident(self, reference: "Tensor") -> "Tensor":
        confident: Tensor = reference.softmax(-1).amax(-1, keepdim=True) > self.confident
        return confident
