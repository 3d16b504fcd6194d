"""Base class of strategies that modify another strategy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from decoding.base import Generate, Note, StatefulStrategy, Strategy
from decoding.formulas.sampling import Sampler
from decoding.traits import Traits
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


class StrategyWrapper(StatefulStrategy):
    """Strategy with the traits, sampler, preparation and branches of the strategy `inner`."""

    @property
    def inner(self) -> Strategy:
        """The wrapped strategy."""
        raise NotImplementedError

    @property
    def traits(self) -> Traits:
        return replace(self.inner.traits, needs=self.inner.traits.needs | {"logits"})

    @property
    def is_unfitted(self) -> bool:
        return self.inner.is_unfitted

    @property
    def sampler(self) -> Sampler:
        return self.inner.sampler

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        return self.inner.prepare(prompts, generate)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return self.inner.branches(prompt, note)

    def inner_strength(self, logits: "Tensor", step: int) -> "Tensor":
        """The sum of the inner strategy's weights, constant or not: logits [n, B, V] -> [B, 1]."""
        from decoding.arms.inspection import constant_strength

        fixed = constant_strength(self.inner)
        return self.inner.strength(logits, step) if fixed is None else logits.new_full((logits.shape[1], 1), fixed)
