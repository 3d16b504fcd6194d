"""Contextual calibration (Zhao et al., ICML 2021, 2102.09690): options relative to content-free queries.

    p(option) ~ p(option | prompt) / mean_j p(option | demonstrations, content-free query j)

p is normalized over the options. This is softmax(W p + b) with W = diag(1 / p_cf) and b = 0, as in the paper for
classification. The content-free queries follow the paper: "N/A", "[MASK]" and the empty text. The image of the
query is content too, so a blank image replaces it, or it is removed.

Differs from the released code in the normalization over the options, which each content-free query has here before the
mean (there the label words have their raw probabilities), and in the query's image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Note, Strategy, Traits, zero_strength
from decoding.formulas.divergences import mean_logprobs
from decoding.prompt_edits import remove_query_image, replace_question
from icl.edits import Blank
from icl.errors import ConfigError
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "contextual_calibration")
@dataclass(frozen=True)
class ContextualCalibration(Strategy):
    """Option probabilities divided by their mean for content-free queries. For option scoring only."""

    texts: tuple[str, ...] = ("N/A", "[MASK]", "")  # replace the query's question, one branch each
    image: Literal["blank", "none"] = "blank"  # replaces the query's image

    traits = Traits(combines_options=True, requires_options=True)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("texts is empty, but contextual calibration needs at least one content-free question.")

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        imageless = prompt.edit(Blank(), "query") if self.image == "blank" else remove_query_image(prompt)
        return prompt, *(replace_question(imageless, text) for text in self.texts)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        return logits[0].log_softmax(-1) - mean_logprobs(logits[1:])
