"""Attention to images is raised: the attention part of PAI, or one constant factor.

Liu et al., Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs, ECCV 2024
(arXiv 2407.21771).

    s' = s + alpha |s| + log(factor)     s: logits of attention, before the softmax
    at the last token of the prompt and at each generated token, for the keys of image tokens, in layers first to last

With `factor` alone, weights of image tokens are multiplied by it before they are normalized, as by one of DARA's
factors for all heads; `dara` learns them. The paper's other part, guidance of logits, is the strategy `pai`: both
together are the method.

Differs from the released code in the keys: images of demonstrations and of the query (the release has one image at
fixed positions); `keys: [query_images]` has the query's alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from decoding.interventions.attention_edits import (
    RaisedScores,
    RandomTokens,
    ScoreMethod,
    check_span_names,
    score_sites,
)
from icl import Count, NonNegative, Positive, Prompt, Where, component, steer, torch
from icl.models.hf.model import HF


@component("intervention", "attention_scaling")
@dataclass(frozen=True)
class AttentionScaling(ScoreMethod):
    """Attention logits of images, raised at the end of the prompt and at each generated token.

    Control: the logits of as many random other tokens, of all others if they are fewer. Preset. readme: the release's
    commands.
    """

    alpha: NonNegative = 0.2  # share of a logit's size that is added; 0 is off
    factor: Positive = 1.0  # factor of the weights before they are normalized; 1 is off
    keys: tuple[str, ...] = ("images",)  # groups or names of parts whose logits are raised
    first_layer: int = 0  # the lowest layer; negative: from the top
    last_layer: int = -1  # the highest layer
    control: RandomTokens = "none"  # as many random other tokens in place of the keys
    draw: Count = 0  # number of the random draw of the control

    presets: ClassVar[dict[str, dict[str, Any]]] = {"readme": {"alpha": 0.2, "first_layer": 2}}

    def __post_init__(self) -> None:
        check_span_names("keys", self.keys)

    @property
    def neutral(self) -> bool:
        return (self.alpha == 0 and self.factor == 1) or not self.keys

    def check(self, model: "HF") -> None:
        score_sites(model, self.first_layer, self.last_layer)

    def steered(self, prompts: Sequence[Prompt], model: "HF") -> Sequence[Prompt]:
        log = torch.tensor(self.factor).log()
        sites = score_sites(model, self.first_layer, self.last_layer)
        edit = RaisedScores(
            {site: log.expand(model.sites.num_heads(site.layer)) for site in sites},
            self.alpha,
            self.edited_keys(),
            Where(part="both"),
        )
        return [steer(prompt, edit) for prompt in prompts]
