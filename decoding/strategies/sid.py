"""Self-introspective decoding (Huo et al., ICLR 2025, 2408.02032): contrast with the least attended image tokens.

    a_j = attention of the last token to image token j in layer l - 1, mean over heads
    the other branch: from layer l on, only the share k of image tokens with the smallest a_j can be attended to
    scores = (1 + alpha) z(y | prompt) - alpha z(y | the other branch),   if p(y | prompt) >= beta max p

The choice is made anew at each step, by the token that is read. At the prompt it is made by the last token, for all
tokens. Layers are numbered from 0, so the default of the paper chooses in the second layer and masks from the third on.
`choice: random` is the control: as many random image tokens.

Differs from the released code in three points. The tokens are those of the query's images, one in the release. Their
number is a share: 100 or 50 of LLaVA-1.5's 576. Greedy decoding applies the mask of plausibility, which the release
applies to sampling alone. A mask on all tokens of a prompt holds scores of all of them: tokens x heads x tokens x 4
bytes in one layer at a time.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from decoding import ContrastStrategy, Note, PlausibleStrategy, Traits
from decoding.interventions.attention_edits import Choice, chosen_keys, cut, random_order
from icl import (
    Fraction,
    Keys,
    NonNegative,
    PositiveInt,
    Prompt,
    Site,
    Tensor,
    Where,
    canonical_digest,
    component,
    steer,
)

IMAGES = Keys(("query_images",))


@dataclass(frozen=True, eq=False)
class LeastImportant:
    """An intervention that hides all but the least attended image tokens, from a layer on.

    Attributes:
        share: Share of the image tokens that stay, rounded up.
        layer: The first layer of the mask. The layer before it chooses.
        choice: `least`: those with the least attention. `random`: random ones, the same at every step.
        prompt: Digest of a prompt: its last token chooses for all of its tokens. '': each generated token chooses.
    """

    share: float
    layer: int
    choice: Choice
    prompt: str = ""
    keys: Keys = IMAGES
    _stays: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[Site, ...]:
        return Site("scores", self.layer - 1), Site("scores", self.layer, onward=True)

    @property
    def where(self) -> Where:
        return Where("all") if self.prompt else Where(part="answer")

    @property
    def neutral(self) -> bool:
        return self.share == 1

    @cached_property
    def digest(self) -> str:
        """Names the prompt, because the states of its first tokens depend on its last one."""
        return canonical_digest(["least important", self.share, self.layer, self.choice, self.prompt])[:32]

    def edit(self, site: Site, x: Tensor, rows: Any) -> Tensor:
        return self.edit_keys(site, x, x > float("-inf"))

    def edit_keys(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        """Layer l - 1 leaves the scores as they are. Later layers of the same forward pass follow its choice."""
        if site == self.sites[0]:
            who = slice(-1, None) if self.prompt else slice(None)
            order = x[who].softmax(-1).mean(1) if self.choice == "least" else random_order(x[who])
            self._stays["now"] = chosen_keys(order, keys[who].any(1), None, self.share)
            return x
        return cut(x).where(keys & ~self._stays["now"].to(x.device)[:, None], x)


@component("strategy", "sid")
@dataclass(frozen=True)
class SID(ContrastStrategy, PlausibleStrategy):
    """Contrast with the same prompt, in which later layers attend only to the least attended image tokens.

    Presets. pope, chair: the released commands.
    """

    alpha: NonNegative = 0.5  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    share: Fraction = 0.1736  # share of the query's image tokens that the other branch attends to; 100 of 576
    layer: PositiveInt = 2  # first layer of the mask; the layer before it chooses
    choice: Choice = "least"  # the least attended tokens, or random ones

    presets: ClassVar[dict[str, dict[str, float]]] = {"pope": {"share": 0.1736}, "chair": {"share": 0.0868}}
    traits = Traits(needs=frozenset({"logits", "interventions"}))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        of_prompt, of_output = (LeastImportant(self.share, self.layer, self.choice, one) for one in (prompt.digest, ""))
        return prompt, steer(prompt, of_prompt, of_output)
