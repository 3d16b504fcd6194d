"""Random gate: a gated method whose decisions are random, from the random stream of the query.

For DCD a random number decides between image and text; for CHASD, whether there is a contrast. A gate with information
is better than this control. `probability` should be the frequency at which the method's own gate is open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from decoding import AllBranchesControl, Arm, ControlTarget, GatedStrategy, StepState, Strategy, Traits, steps_per_row
from decoding.strategies.dcd import DCD
from icl import ConfigError, Fraction, NestedComponent, Tensor, component, copied_to_device


@component("strategy", "random_gate")
@dataclass(frozen=True)
class RandomGate(AllBranchesControl):
    """Control: a gated strategy (dcd, chasd) with a random gate. Raises ConfigError for a strategy without a gate."""

    of: Annotated[Strategy, NestedComponent("strategy")] = field(default_factory=DCD)  # strategy with the gate
    probability: Fraction = 0.5  # of an open gate at each step

    control_rank: ClassVar[int] = 70

    @property
    def traits(self) -> Traits:
        return replace(super().traits, draws_random_numbers=True, masks_in_combine=True)  # the mask depends on the gate

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(RandomGate(target.strategy)) if isinstance(target.strategy, GatedStrategy) else None

    def __post_init__(self) -> None:
        if not isinstance(self.of, GatedStrategy):
            raise ConfigError(f"strategy '{type(self.of).__name__}' has no gate. Use dcd or chasd.")

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.of.strength(logits, step)

    def mask(self, reference: Tensor) -> None:
        return None

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        import torch

        assert isinstance(self.of, GatedStrategy)
        steps = steps_per_row(step, len(states))
        numbers = [state.key.number(f"gate/{steps[row]}", 53) for row, state in enumerate(states)]
        is_open = [number < self.probability * 2**53 for number in numbers]
        gate = copied_to_device(is_open, torch.bool, logits.device)[:, None]
        scores, mask = self.of.gated_scores(logits, step, gate, states), self.of.gated_mask(logits[0], gate)
        return scores if mask is None else scores.masked_fill(~mask, -float("inf"))
