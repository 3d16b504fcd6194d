"""Base classes of controls that wrap the strategy under test."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from decoding import MaskingWrapper, Note, StepState, Traits, constant_weights, logits_count
from icl import Prompt, Strategy, Tensor


class WrappingControl(MaskingWrapper):
    """Base of controls with the sampler, preparation and mask of the strategy `of`.

    A subclass defines `combine_stateful`. Only the reference is read, so a control costs one branch, unless the mask or
    the control itself needs the other branches.

    Attributes:
        keeps_order: Whether the control keeps the order of the reference's tokens.
    """

    of: Strategy
    keeps_order: ClassVar[bool] = False

    @property
    def needs_all_branches(self) -> bool:
        """Whether the other branches are needed, as for a mask in `combine`."""
        return self.of.traits.masks_in_combine

    @property
    def inner(self) -> Strategy:
        return self.of

    @property
    def traits(self) -> Traits:
        traits = replace(super().traits, is_control=True, preserves_argmax=self.keeps_order)
        if self.needs_all_branches:
            return traits
        return replace(
            traits, draws_random_numbers=False, keeps_state=False, combines_notes=False, reads_early_exits=False
        )

    @property
    def weights(self) -> tuple[float, ...] | None:
        return self.reference_weights(1.0)

    def reference_weights(self, weight: float) -> tuple[float, ...]:
        """This weight for the reference and 0 for all other branches."""
        others = logits_count(self.of) - 1 if self.needs_all_branches else 0
        return weight, *[0.0] * others

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        branches = super().branches(prompt, note)
        return branches if self.needs_all_branches else branches[:1]

    def apply_inner_mask(self, logits: Tensor, step: int, states: Sequence[StepState], scores: Tensor) -> Tensor:
        """The scores with -inf where the combined scores of `of` are -inf."""
        if not self.of.traits.masks_in_combine:
            return scores
        return scores.masked_fill(self.of.combine_stateful(logits, step, states) == -float("inf"), -float("inf"))

    def surviving_tokens(self, logits: Tensor, scores: Tensor) -> Tensor:
        """Tokens that survive `of`: its combined scores [B, V] -> [B, V] bool."""
        mask = self.of.mask(logits[0])
        finite = scores > -float("inf")
        return finite if mask is None else mask & finite


class AllBranchesControl(WrappingControl):
    """Base of controls that need every branch of `of`."""

    needs_all_branches: ClassVar[bool] = True


class NegativeReplacement(AllBranchesControl):
    """Base of controls that are `of` itself with another prompt in the place of every branch but the reference."""

    @property
    def weights(self) -> tuple[float, ...] | None:
        return constant_weights(self.of)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.of.strength(logits, step)

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        """The prompt that replaces the contrast branches."""
        raise NotImplementedError

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        first, *others = self.of.branches(prompt, note)
        return first, *[self.negative_prompt(prompt)] * len(others)

    def reference_decides(self, reference: Tensor) -> Tensor | None:
        return self.of.reference_decides(reference)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        return self.of.combine_stateful(logits, step, states)
