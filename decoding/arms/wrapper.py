"""Base classes of strategies that wrap another one, decide row by row, or contrast the prompt with a part left out."""

from collections.abc import Sequence
from dataclasses import replace

from decoding import AblatedPart, Sampler, remove_part
from decoding.base import Generate, Note, StatefulStrategy, StepState, Traits, UnitSumStrategy
from icl import Prompt, Strategy, Tensor


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

    def inner_strength(self, logits: Tensor, step: int) -> Tensor:
        """The sum of the inner strategy's weights, constant or not: logits [n, B, V] -> [B, 1]."""
        from decoding.arms.inspection import constant_strength

        fixed = constant_strength(self.inner)
        return self.inner.strength(logits, step) if fixed is None else logits.new_full((logits.shape[1], 1), fixed)


class MaskingWrapper(StrategyWrapper):
    """A wrapper with the mask of `inner`. The engine knows it, and so computes the masks of many arms at once."""

    def mask(self, reference: Tensor) -> Tensor | None:
        return self.inner.mask(reference)


class GatedStrategy(StatefulStrategy):
    """Base of strategies that score each row by a decision: `gate` makes it, `gated_scores` uses it."""

    def gate(self, logits: Tensor, step: int) -> Tensor:
        """The decision of each row: logits [n, B, V] -> [B, 1] bool."""
        raise NotImplementedError

    def gated_scores(self, logits: Tensor, step: int, gate: Tensor, states: Sequence[StepState]) -> Tensor:
        """Combined scores under a decision: logits [n, B, V] -> [B, V]."""
        raise NotImplementedError

    def gated_mask(self, reference: Tensor, gate: Tensor) -> Tensor | None:
        """The mask under a decision (see `Strategy.mask`)."""
        return self.mask(reference)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        return self.gated_scores(logits, step, self.gate(logits, step), states)


class AblationContrast(Strategy):
    """Base of strategies that remove what the field `without` names from their second branch."""

    without: AblatedPart

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_part(prompt, self.without)


class AdaptiveAblationContrast(UnitSumStrategy, AblationContrast):
    """Base of ablation contrasts with weights that vary by row or by token and sum to one."""
