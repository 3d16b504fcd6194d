"""Gaussian proxy (Bendre et al., 2607.25196): a method's shift replaced by noise of its mean and spread.

    shift = method's scores - s z_0 on the survivors        scores = s z_0 + N(mean shift, sd shift)

Moments are of the row's own step; the noise is from the query's stream. If any shift of that size does as well, the
contrast carries no information. Defined for any number of branches and any s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.base import StepState, Strategy
from decoding.controls.base import AllBranchesControl
from decoding.traits import Traits
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "gaussian_proxy")
@dataclass(frozen=True)
class GaussianProxy(AllBranchesControl):
    """Control: noise with the mean and spread of the shift that another strategy makes at each step."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose shift it is

    control_rank: ClassVar[int] = 40

    @property
    def traits(self) -> Traits:
        return replace(super().traits, draws_random_numbers=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(GaussianProxy(target.strategy))

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.inner_strength(logits, step)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        import torch

        own = self.of.combine_stateful(logits, step, states)
        base = self.inner_strength(logits, step) * logits[0]
        surviving_tokens = self.surviving_tokens(logits, own)
        count = surviving_tokens.sum(-1, keepdim=True)
        shift = torch.where(surviving_tokens, own - base, 0.0)
        mean = shift.sum(-1, keepdim=True) / count
        spread = (torch.where(surviving_tokens, shift - mean, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
        size = logits.shape[-1]
        noise = torch.stack([torch.randn(size, generator=t.key.torch(f"gaussian/{step}")) for t in states])
        scores: Tensor = base + mean + spread * noise.to(base.device)
        return scores.masked_fill(own == -float("inf"), -float("inf"))
