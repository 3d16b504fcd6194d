"""Contextual calibration (Zhao et al., ICML 2021, 2102.09690): options against what content-free queries bring.

    p(option) ~ p(option | prompt) / mean_j p(option | demonstrations, content-free query j),   p: shares of the options

That is softmax(W p + b) with W = diag(1 / p_cf) and b = 0, as the paper uses for classification; the content-free
queries are its own: "N/A", "[MASK]" and the empty text. The query's image is content too: a blank one stands in its
place, or none.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Note, Strategy, zero_strength
from decoding.prompt_edits import remove_query_image, replace_question
from decoding.traits import Traits
from icl.edits import Blank
from icl.errors import ConfigError
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "contextual_calibration")
@dataclass(frozen=True)
class ContextualCalibration(Strategy):
    """Options divided by their mean share for queries that say nothing, after equal demonstrations. Options alone."""

    texts: tuple[str, ...] = ("N/A", "[MASK]", "")  # in the place of the query's question, one branch each
    image: Literal["blank", "none"] = "blank"  # in the place of the query's image

    traits = Traits(combines_options=True, requires_options=True)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("texts has none: contextual calibration needs at least one content-free question.")

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        bare = prompt.edit(Blank(), "query") if self.image == "blank" else remove_query_image(prompt)
        return prompt, *(replace_question(bare, text) for text in self.texts)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        scores: Tensor = logits[0].log_softmax(-1) - logits[1:].softmax(-1).mean(0).log()
        return scores
