"""What controls share: another strategy's prompts and mask, read as narrowly as the control allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.inspection import logits_count, weights_of
from decoding.arms.wrapper import Around
from decoding.base import Note, Strategy, Thread
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class Wrapped(Around):
    """Base of controls, which define `follow`. Sampler, preparation and mask are those of the strategy `of`.

    The reference alone is read, so a control costs one branch, unless the mask or the control itself reads the others.
    """

    of: Strategy
    control: ClassVar[bool] = True

    @property
    def reads_all(self) -> bool:
        """Whether the other branches are needed. A mask in `combine` reads them."""
        return self.of.masks_in_combine

    @property
    def inner(self) -> Strategy:
        return self.of

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.reads_all and self.of.draws

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.reads_all and self.of.remembers

    @property
    def exits(self) -> bool:  # type: ignore[override]
        return self.reads_all and self.of.exits

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The reference's scores alone."""
        return self.reference_alone(1.0)

    def reference_alone(self, weight: float) -> tuple[float, ...]:
        others = logits_count(self.of) - 1 if self.reads_all else 0
        return weight, *[0.0] * others

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        branches = super().branches(prompt, note)
        return branches if self.reads_all else branches[:1]

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return self.of.mask(reference)

    def ruled_out(self, logits: "Tensor", step: int, threads: Sequence[Thread], scores: "Tensor") -> "Tensor":
        """The scores with -inf where the method's own have it."""
        if not self.of.masks_in_combine:
            return scores
        return scores.masked_fill(self.of.follow(logits, step, threads) == -float("inf"), -float("inf"))

    def alive(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """[B, V] bool: what survives the method. scores: its own, as its `follow` gives them."""
        mask = self.of.mask(logits[0])
        finite = scores > -float("inf")
        return finite if mask is None else mask & finite


class ReadsAll(Wrapped):
    """Base of controls that need every branch of the method."""

    @property
    def reads_all(self) -> bool:
        return True


class OtherNegative(ReadsAll):
    """Base of controls that are the method itself, with another prompt in the place of every branch but the first."""

    @property
    def weights(self) -> tuple[float, ...] | None:
        return weights_of(self.of)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def negative(self, prompt: Prompt) -> Prompt:
        """What stands in the place of the method's own branches."""
        raise NotImplementedError

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        first, *others = self.of.branches(prompt, note)
        return first, *[self.negative(prompt)] * len(others)

    def settled(self, reference: "Tensor") -> "Tensor | None":
        return self.of.settled(reference)

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        return self.of.follow(logits, step, threads)
