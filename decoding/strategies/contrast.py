"""A contrast whose branches, weights, space and mask are written in the config.

    space: logits           scores = sum_b w_b z_b
    space: logprobs         scores = sum_b w_b l_b
    space: probabilities    scores = log max(sum_b w_b p_b, tiny)

    {name: contrast, branches: [{change: noise, step: 900}], weights: [2, -1], mask: plausible, beta: .1}    is VCD
    {name: contrast, branches: [no_demonstrations], weights: [1.5, -.5], mask: none}                         is CAD

`decoding.branch` lists the changes that make a branch. A change can be an edit of images (`icl ls edit`):

    {change: {name: 'mine.py:Stripes', width: 3}, images: all}

The reference is branch 0 and has the first weight. Logits and log-probabilities give the same choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from decoding import Note, Strategy, constants_like, kth_plausibility_mask, typical_mask, unit_strength
from decoding.branch import Branch, BranchesField
from icl import ConfigError, Fraction, NonNegative, PositiveInt, Prompt, Tensor, component, parameter, torch

MASK_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "plausible": ("beta",),
    "kth_best": ("beta", "k"),
    "typical": ("width",),
}
"""Mask -> the parameters that it reads."""


@component("strategy", "contrast")
@dataclass(frozen=True)
class Contrast(Strategy):
    """Weighted combination of any branches, as the config defines it."""

    contrasts: Annotated[tuple[Branch, ...], BranchesField()] = parameter("branches", (Branch("noise"),))  # prompts
    branch_weights: tuple[float, ...] = parameter("weights", (2.0, -1.0))  # of the prompt, then of each branch
    space: Literal["logits", "logprobs", "probabilities"] = "logits"  # what is weighted
    mask_name: Literal["none", "plausible", "kth_best", "typical"] = parameter("mask", "plausible")  # of the reference
    beta: Fraction = 0.1  # minimal probability relative to the best (or k-th best) token
    k: PositiveInt = 5  # rank of the token in the mask kth_best
    width: NonNegative = 1.0  # half the width of the mask typical around the entropy, in nats

    def __post_init__(self) -> None:
        if len(self.branch_weights) != 1 + len(self.contrasts):
            raise ConfigError(
                f"weights has {len(self.branch_weights)} numbers for the prompt and {len(self.contrasts)} branches. "
                "Give one for the prompt itself, then one for each branch."
            )
        reads = MASK_PARAMETERS[self.mask_name]
        for f in fields(self):
            if f.name in ("beta", "k", "width") and f.name not in reads and getattr(self, f.name) != f.default:
                raise ConfigError(
                    f"the mask '{self.mask_name}' has no parameter '{f.name}'. It has {' and '.join(reads) or 'none'}."
                )

    @property
    def weights(self) -> tuple[float, ...] | None:
        return None if self.space == "probabilities" else self.branch_weights

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *(branch.apply(prompt) for branch in self.contrasts)

    def mask(self, reference: Tensor) -> Tensor | None:
        if self.mask_name == "none":
            return None
        if self.mask_name == "typical":
            return typical_mask(reference, self.width)
        return kth_plausibility_mask(reference, self.beta, self.k if self.mask_name == "kth_best" else 1)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        weights = constants_like(self.branch_weights, logits)[:, None, None]
        if self.space == "logits":
            scores: Tensor = (weights * logits).sum(0)
        elif self.space == "logprobs":
            scores = (weights * logits.log_softmax(-1)).sum(0)
        else:
            mixture = (weights * logits.softmax(-1)).sum(0)
            scores = mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()
        return scores
