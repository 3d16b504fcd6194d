"""CRoPS (2601.00659): two negatives, one for the language prior and one for image statistics.

    l = log p(y | prompt) over the tokens with p(y) >= beta max p, renormalized; only these are kept
    l_lang = log p(y | no image)       l_stat = log p(y | edited image)
    g = exp(-rate t), t from 1,        f = l + (1 - g) / g (l - l_lang)
    scores = (1 + alpha) f - alpha l_stat
    scores = l                         where max exp(l) > confident

The language prior grows in long answers, so its weight grows with the step t. The negatives:

    negatives          l_lang                                            l_stat
    inputs             the prompt without the query's image              `edit` of the image
    attention          the same, and of all tokens only the `text_kept`  of the image only the share `image_kept`
                       least attended, from `layer` on                   of least attended tokens, from `layer` on
    random_attention   as many random tokens, the control                as many random tokens

The masks act on the last token and on generated ones, and need a model of `hf` with attention scores (sdpa or eager).

Differs from the released code in `inputs`, and in `attention`: there one layer chooses the tokens once, masks also act
on tokens of the prompt, and the number of text tokens grows from 10 to 40 in long answers. Here each layer and step
chooses by its own attention, and the number is fixed. The released code has no batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from decoding import Note, PlausibleStrategy, Traits, UnitSumStrategy, remove_query_image, weight_per_row
from decoding.interventions.attention_edits import Choice, chosen_keys, cut, random_order
from icl import Keys, Prompt, Site, Tensor, Where, canonical_digest, steer
from icl.edits import Edit, ShuffledPatches
from icl.registry import (
    Count,
    Fraction,
    NestedComponent,
    NonNegative,
    Positive,
    PositiveInt,
    component,
    later_parameter,
)


@dataclass(frozen=True, eq=False)
class LeastAttended:
    """An intervention after which the last token and generated ones attend to few of some tokens.

        a_j = mean over heads of the attention to token j in this layer
        s'_j = lowest number, unless j is among the `count` tokens, or the `share` of them, with the smallest a_j

    A token keeps its own key, and keys outside of `keys` keep their scores.

    Attributes:
        keys: The tokens to choose from.
        count: Number of tokens that stay in each layer, or None.
        share: Share of the tokens that stays if `count` is None.
        layer: The first layer of the edit.
        choice: `least`: those with the least attention. `random`: random ones, the same for all prompts.
    """

    where: ClassVar[Where] = Where("end", "both")

    keys: Keys
    count: int | None = None
    share: float = 1.0
    layer: int = 2
    choice: Choice = "least"

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site("scores", self.layer, onward=True),)

    @property
    def neutral(self) -> bool:
        return self.count is None and self.share == 1

    @cached_property
    def digest(self) -> str:
        parts = ["least attended", repr(self.keys), self.count, self.share, self.layer, self.choice]
        return canonical_digest(parts)[:32]

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return self.edit_keys(site, x, x > -math.inf)

    def edit_keys(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        candidates = keys.any(1)
        order = x.softmax(-1).mean(1) if self.choice == "least" else random_order(x)
        stays = chosen_keys(order, candidates, self.count, self.share)
        return cut(x).where((candidates & ~stays)[:, None], x)


@component("strategy", "crops")
@dataclass(frozen=True)
class CRoPS(UnitSumStrategy, PlausibleStrategy):
    """Contrast with the prompt without the image and with an edited image, stronger at later tokens."""

    alpha: NonNegative = 1.0  # strength of the contrast with the edited image
    rate: Positive = 0.01  # growth of the first negative per token; the released value
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    confident: Fraction = 0.95  # probability of the best token among those kept, above which the reference is used
    edit: Annotated[Edit, NestedComponent("edit")] = field(default_factory=ShuffledPatches)  # of the second negative
    negatives: Literal["inputs", "attention", "random_attention"] = later_parameter("inputs")  # how they are made
    text_kept: PositiveInt = later_parameter(10)  # tokens that the first negative attends to, of masks
    image_kept: Fraction = later_parameter(0.25)  # share of image tokens that the second negative attends to, of masks
    layer: Count = later_parameter(2)  # first layer of masks

    @property
    def traits(self) -> Traits:
        return Traits(needs=frozenset({"logits"} if self.negatives == "inputs" else {"logits", "interventions"}))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt, Prompt]:
        text = remove_query_image(prompt)
        if self.negatives == "inputs":
            return prompt, text, prompt.edit(self.edit, "query")
        choice: Choice = "least" if self.negatives == "attention" else "random"
        language = LeastAttended(Keys(own=False), count=self.text_kept, layer=self.layer, choice=choice)
        images = Keys(("query_images",), own=False)
        statistics = LeastAttended(images, share=self.image_kept, layer=self.layer, choice=choice)
        return prompt, steer(text, language), steer(prompt, statistics)

    def reference_decides(self, reference: Tensor) -> Tensor:
        return self._kept_logprobs(reference).amax(-1).exp() > self.confident

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """logits: [3, B, V] float32 -> scores [B, V]."""
        reference, (language, statistics) = self._kept_logprobs(logits[0]), logits[1:].log_softmax(-1)
        growth = weight_per_row(step, lambda number: math.expm1(self.rate * (number + 1)), reference)  # (1 - g) / g
        full = reference + growth * (reference - language)
        scores: Tensor = (1 + self.alpha) * full - self.alpha * statistics
        return scores.where(~self.reference_decides(logits[0])[:, None], reference)

    def _kept_logprobs(self, reference: Tensor) -> Tensor:
        """Logits minus the logsumexp of those that the mask keeps: log-probabilities of kept tokens. [B, V]."""
        mask = self.mask(reference)
        plausible = reference if mask is None else reference.masked_fill(~mask, -math.inf)
        return reference - plausible.logsumexp(-1, keepdim=True)
