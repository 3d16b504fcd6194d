"""Visual steering vectors: what the image changes at the end of the prompt, strengthened at every token.

Li et al., The Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information
Steering, ICML 2025 (arXiv 2502.03628).

    v_l = h_l(last | prompt) - h_l(last | prompt without the query's image)       per query
    every token, output of the MLP of layer l: `edits.turned` along v_l / |v_l|, lam .17 (.1 CHAIR, .01 POPE)

This is the steering part. The paper's second part, a mixture with the logits of late layers, changes no states and is
left out.

Differs from the released code in two points. The direction is the difference itself (the release takes a principal
direction of one pair, which is that of a zero matrix and adds 1 to the first coordinate). Demonstrations stay in both
prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from decoding import DirectionEdit, SteeringMethod, random_of_equal_norm, remove_query_image
from decoding.interventions.edits import directions_by_site
from icl import NonNegative, Prompt, component, steer, torch
from icl.models.hf.model import HF


@component("intervention", "vista")
@dataclass(frozen=True)
class Vista(SteeringMethod):
    """A direction from the prompt without its image to the prompt, along which MLP outputs of all tokens are turned.

    Controls: a random direction, and the opposite one.
    """

    lam: NonNegative = 0.17  # how far states are turned; 0 is off
    control: Literal["none", "random", "opposite"] = "none"  # a random direction, or away from the image

    @property
    def neutral(self) -> bool:
        return self.lam == 0

    def controls(self) -> tuple[SteeringMethod, ...]:
        return () if self.control != "none" else (replace(self, control="random"), replace(self, control="opposite"))

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        sites = model.sites.all("residual")
        both = [*prompts, *(remove_query_image(prompt) for prompt in prompts)]
        states = [torch.stack([own[site][-1] for site in sites]) for own in model.observe(both, sites)]
        steered = []
        for i, prompt in enumerate(prompts):
            vectors = states[i] - states[len(prompts) + i]
            if self.control == "random":
                vectors = random_of_equal_norm(vectors, prompt.digest)
            elif self.control == "opposite":
                vectors = -vectors
            directions = directions_by_site(model, vectors)
            steered.append(steer(prompt, DirectionEdit(directions, self.lam)) if directions else prompt)
        return steered
