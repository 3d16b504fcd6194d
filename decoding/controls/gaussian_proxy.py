"""Gaussian proxy (Bendre et al., 2607.25196): the shift of a method replaced by noise of equal mean and deviation.

    shift = scores of the method - s z_0 on surviving tokens        scores = s z_0 + N(mean shift, sd shift)

s is the sum of the weights. Mean and deviation are taken from the same row and step. The noise comes from the random
stream of the query. If any shift of this size is as good, the contrast has no information. The control is defined for
any number of branches and any s.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from decoding import AllBranchesControl, Arm, ControlTarget, StepState, Strategy, Traits, steps_per_row
from icl import NestedComponent, Tensor, component


@component("strategy", "gaussian_proxy")
@dataclass(frozen=True)
class GaussianProxy(AllBranchesControl):
    """Control: the reference with Gaussian noise of the mean and deviation of another strategy's shift."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose shift is replaced

    control_rank: ClassVar[int] = 40

    @property
    def traits(self) -> Traits:
        return replace(super().traits, draws_random_numbers=True)

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(GaussianProxy(target.strategy))

    @property
    def weights(self) -> None:
        return None

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
    import torch

    noise = torch.empty(logits.shape[1:], pin_memory=logits.device.type == "cuda")
    for row, state, number in zip(noise.unbind(), states, steps_per_row(step, len(states)), strict=True):
        row.normal_(generator=state.key.torch(f"gaussian/{number}"))
    return noise.to(logits.device, non_blocking=True)
