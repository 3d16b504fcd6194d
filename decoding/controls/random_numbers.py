"""Controls that replace what a method computes by random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from decoding import AllBranchesControl, Arm, ControlTarget, GatedStrategy, StepState, Strategy, Traits, steps_per_row
from decoding.strategies.dcd import DCD
from icl import ConfigError, Fraction, NestedComponent, Tensor, component, copied_to_device, torch


@component("strategy", "random_gate")
@dataclass(frozen=True)
class RandomGate(AllBranchesControl):
    """Control: a gated strategy (dcd, chasd) with a random gate. Raises ConfigError for a strategy without a gate.

    Random gate: a gated method whose decisions are random, from the random stream of the query.

    For DCD a random number decides between image and text; for CHASD, whether there is a contrast. A gate with
    information is better than this control. `probability` should be the frequency at which the method's own gate is
    open.
    """

    of: Annotated[Strategy, NestedComponent("strategy")] = field(default_factory=DCD)  # strategy with the gate
    probability: Fraction = 0.5  # of an open gate at each step

    control_rank: ClassVar[int] = 70
    weights: ClassVar[None] = None

    @property
    def traits(self) -> Traits:
        return replace(super().traits, draws_random_numbers=True, masks_in_combine=True)  # the mask depends on the gate

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(RandomGate(target.strategy)) if isinstance(target.strategy, GatedStrategy) else None

    def __post_init__(self) -> None:
        if not isinstance(self.of, GatedStrategy):
            raise ConfigError(f"strategy '{type(self.of).__name__}' has no gate. Use dcd or chasd.")

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.of.strength(logits, step)

    def mask(self, reference: Tensor) -> None:
        return None

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        assert isinstance(self.of, GatedStrategy)
        steps = steps_per_row(step, len(states))
        numbers = [state.key.number(f"gate/{steps[row]}", 53) for row, state in enumerate(states)]
        is_open = [number < self.probability * 2**53 for number in numbers]
        gate = copied_to_device(is_open, torch.bool, logits.device)[:, None]
        scores, mask = self.of.gated_scores(logits, step, gate, states), self.of.gated_mask(logits[0], gate)
        return scores if mask is None else scores.masked_fill(~mask, -float("inf"))


@component("strategy", "gaussian_proxy")
@dataclass(frozen=True)
class GaussianProxy(AllBranchesControl):
    """Control: the reference with Gaussian noise of the mean and deviation of another strategy's shift.

    Gaussian proxy (Bendre et al., 2607.25196): the shift of a method replaced by noise of equal mean and deviation.

        shift = scores of the method - s z_0 on surviving tokens        scores = s z_0 + N(mean shift, sd shift)

    s is the sum of the weights. Mean and deviation are taken from the same row and step. The noise comes from the
    random stream of the query. If any shift of this size is as good, the contrast has no information. The control is
    defined for any number of branches and any s.

    No released code was compared.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose shift is replaced

    control_rank: ClassVar[int] = 40
    weights: ClassVar[None] = None

    @property
    def traits(self) -> Traits:
        return replace(super().traits, draws_random_numbers=True)

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(GaussianProxy(target.strategy))

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.inner_strength(logits, step)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        combined = self.of.combine_stateful(logits, step, states)
        base = self.inner_strength(logits, step) * logits[0]
        survives = self.surviving_tokens(logits, combined)
        count = survives.sum(-1, keepdim=True)
        excluded = ~survives
        shift = (combined - base).masked_fill(excluded, 0.0)
        mean = shift.sum(-1, keepdim=True) / count
        deviation = ((shift - mean).masked_fill(excluded, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
        scores: Tensor = (base + mean).addcmul(deviation, _noise(logits, step, states))
        return scores.masked_fill(combined == -float("inf"), -float("inf"))


def _noise(logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
    """Standard normal numbers of each row, [B, V] float32, drawn on the host. The host does not wait for the copy."""
    noise = torch.empty(logits.shape[1:], pin_memory=logits.device.type == "cuda")
    for row, state, number in zip(noise.unbind(), states, steps_per_row(step, len(states)), strict=True):
        row.normal_(generator=state.key.torch(f"gaussian/{number}"))
    return noise.to(logits.device, non_blocking=True)
