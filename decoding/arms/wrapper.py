"""Strategies that are made of another one: what that one needs, reads and draws is said by it, once for all of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.base import Generate, Note, StatefulStrategy, Strategy
from decoding.formulas.sampling import Sampler
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class StrategyWrapper(StatefulStrategy):
    """Base: `inner` is the other one. Its facts, sampler, preparation and branches hold for the whole."""

    @property
    def inner(self) -> Strategy:
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.inner.needs | {"logits"}

    @property
    def masks_in_combine(self) -> bool:  # type: ignore[override]
        return self.inner.masks_in_combine

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.inner.draws

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.inner.remembers

    @property
    def exits(self) -> bool:  # type: ignore[override]
        return self.inner.exits

    @property
    def nearest(self) -> str:  # type: ignore[override]
        return self.inner.nearest

    @property
    def reads_other(self) -> bool:  # type: ignore[override]
        return self.inner.reads_other

    @property
    def over_options(self) -> bool:  # type: ignore[override]
        return self.inner.over_options

    @property
    def options_only(self) -> bool:  # type: ignore[override]
        return self.inner.options_only

    @property
    def sampler(self) -> Sampler:
        return self.inner.sampler

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        return self.inner.prepare(prompts, generate)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return self.inner.branches(prompt, note)

    def inner_strength(self, logits: "Tensor", step: int) -> "Tensor":
        """[B, 1] sum of the other one's weights, whether it varies or not. logits: [n, B, V]."""
        from decoding.arms.inspection import constant_strength

        fixed = constant_strength(self.inner)
        return self.inner.strength(logits, step) if fixed is None else logits.new_full((logits.shape[1], 1), fixed)
