"""What controls share: another strategy's prompts and mask, read as narrowly as the control allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from decoding.base import Generate, Note, Strategy, Thread, Threaded
from decoding.probe import logits_count, strength_of, weights_of
from decoding.sampling import Sampler
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class Wrapped(Threaded):
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
    def masks_in_combine(self) -> bool:  # type: ignore[override]
        return self.of.masks_in_combine

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.of.needs | {"logits"}

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
    def nearest(self) -> str:  # type: ignore[override]
        return self.of.nearest

    @property
    def reads_other(self) -> bool:  # type: ignore[override]
        return self.of.reads_other

    @property
    def over_options(self) -> bool:  # type: ignore[override]
        return self.of.over_options

    @property
    def options_only(self) -> bool:  # type: ignore[override]
        return self.of.options_only

    @property
    def sampler(self) -> Sampler:
        return self.of.sampler

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The reference's scores alone."""
        return self.reference_alone(1.0)

    def reference_alone(self, weight: float) -> tuple[float, ...]:
        others = logits_count(self.of) - 1 if self.reads_all else 0
        return weight, *[0.0] * others

    def of_strength(self, logits: "Tensor", step: int) -> "Tensor":
        """[B, 1] sum of the method's weights, whether it varies or not."""
        fixed = strength_of(self.of)
        return self.of.strength(logits, step) if fixed is None else logits.new_full((logits.shape[1], 1), fixed)

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        return self.of.prepare(prompts, generate)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        branches = self.of.branches(prompt, note)
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
