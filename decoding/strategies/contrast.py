"""A contrast of one's own: branches, weights, space and mask written in the config.

    logits, logprobs    scores = sum_b w_b z_b  or  sum_b w_b l_b
    probabilities       scores = log max(sum_b w_b p_b, tiny)

    {name: contrast, branches: [{change: noise, step: 900}], weights: [2, -1], mask: plausible, beta: .1}    is VCD
    {name: contrast, branches: [no_demonstrations], weights: [1.5, -.5], mask: none}                         is CAD

A branch is a change by its name, or an edit of images (`icl ls edit`) by its name or path, with what it reads:

    {change: {name: 'mine.py:Stripes', width: 3}, images: all}

The reference is branch 0 and has the first weight. With constant weights logits and log-probabilities choose alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from decoding.base import Note, Strategy, unit_strength
from decoding.branch import Branch, BranchesField
from decoding.formulas.masks import kth_plausibility_mask, typical_mask
from icl.constraints import Fraction, NonNegative, PositiveInt
from icl.errors import ConfigError
from icl.registry import component, parameter
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


READS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "plausible": ("beta",),
    "kth_best": ("beta", "k"),
    "typical": ("width",),
}
"""mask -> the parameters that it looks at."""
MASKING = frozenset(name for reads in READS.values() for name in reads)


@component("strategy", "contrast")
@dataclass(frozen=True)
class Contrast(Strategy):
    """Any prompts, weighed against one another as the config says."""

    changed: Annotated[tuple[Branch, ...], BranchesField()] = parameter(
        "branches", (Branch("noise"),)
    )  # beside the prompt
    weighed: tuple[float, ...] = parameter("weights", (2.0, -1.0))  # of the prompt itself and of each branch
    space: Literal["logits", "logprobs", "probabilities"] = "logits"  # what is weighed
    masked: Literal["none", "plausible", "kth_best", "typical"] = parameter("mask", "plausible")  # by the reference
    beta: Fraction = 0.1  # share of the best (or k-th best) token's probability that a token must reach
    k: PositiveInt = 5  # of the mask kth_best
    width: NonNegative = 1.0  # nats around the entropy that the mask typical keeps

    def __post_init__(self) -> None:
        if len(self.weighed) != 1 + len(self.changed):
            raise ConfigError(
                f"weights has {len(self.weighed)} numbers for the prompt and {len(self.changed)} branches. "
                "Give one for the prompt itself, then one for each branch."
            )
        reads = READS[self.masked]
        for f in fields(self):
            if f.name in MASKING and f.name not in reads and getattr(self, f.name) != f.default:
                raise ConfigError(
                    f"the mask '{self.masked}' does not read {f.name}. It reads {' and '.join(reads) or 'none'}."
                )

    @property
    def weights(self) -> tuple[float, ...] | None:
        return None if self.space == "probabilities" else self.weighed

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        """Of probabilities: a mixture of equals is what it is made of."""
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *(branch.apply(prompt) for branch in self.changed)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        if self.masked == "none":
            return None
        if self.masked == "typical":
            return typical_mask(reference, self.width)
        return kth_plausibility_mask(reference, self.beta, self.k if self.masked == "kth_best" else 1)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        weights = logits.new_tensor(self.weighed)[:, None, None]
        if self.space == "logits":
            plain: Tensor = (weights * logits).sum(0)
            return plain
        if self.space == "logprobs":
            told: Tensor = (weights * logits.log_softmax(-1)).sum(0)
            return told
        mixed = (weights * logits.softmax(-1)).sum(0)
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
