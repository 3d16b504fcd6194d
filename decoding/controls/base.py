"""What controls share: another strategy's prompts and mask, read as narrowly as the control allows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from decoding.arms.inspection import constant_weights, logits_count
from decoding.arms.wrapper import StrategyWrapper
from decoding.base import Note, StepState, Strategy
from decoding.traits import Traits
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class WrappingControl(StrategyWrapper):
    """Base of controls, which define `follow`. Sampler, preparation and mask are those of the strategy `of`.

    The reference alone is read, so a control costs one branch, unless the mask or the control itself reads the others.
    """

    of: Strategy

    @property
    def needs_all_branches(self) -> bool:
        """Whether the other branches are needed. A mask in `combine` reads them."""
        return self.of.traits.masks_in_combine

    @property
    def inner(self) -> Strategy:
        return self.of

    @property
    def traits(self) -> Traits:
        traits = replace(super().traits, is_control=True, preserves_argmax=False)
        if self.needs_all_branches:
            return traits
        return replace(traits, draws_random_numbers=False, keeps_state=False, reads_early_exits=False)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The reference's scores alone."""
        return self.reference_weights(1.0)

    def reference_weights(self, weight: float) -> tuple[float, ...]:
        others = logits_count(self.of) - 1 if self.needs_all_branches else 0
        return weight, *[0.0] * others

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        branches = super().branches(prompt, note)
        return branches if self.needs_all_branches else branches[:1]

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return self.of.mask(reference)

    def apply_inner_mask(self, logits: "Tensor", step: int, states: Sequence[StepState], scores: "Tensor") -> "Tensor":
        """The scores with -inf where the method's own have it."""
        if not self.of.traits.masks_in_combine:
            return scores
        return scores.masked_fill(self.of.combine_stateful(logits, step, states) == -float("inf"), -float("inf"))

    def surviving_tokens(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """[B, V] bool: what survives the method. scores: its own, as its `follow` gives them."""
        mask = self.of.mask(logits[0])
        finite = scores > -float("inf")
        return finite if mask is None else mask & finite


class AllBranchesControl(WrappingControl):
    """Base of controls that need every branch of the method."""

    @property
    def needs_all_branches(self) -> bool:
        return True


class NegativeReplacement(AllBranchesControl):
    """Base of controls that are the method itself, with another prompt in the place of every branch but the first."""

    @property
    def weights(self) -> tuple[float, ...] | None:
        return constant_weights(self.of)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        """What stands in the place of the method's own branches."""
        raise NotImplementedError

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        first, *others = self.of.branches(prompt, note)
        return first, *[self.negative_prompt(prompt)] * len(others)

    def reference_decides(self, reference: "Tensor") -> "Tensor | None":
        return self.of.reference_decides(reference)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        return self.of.combine_stateful(logits, step, states)
