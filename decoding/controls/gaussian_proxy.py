"""Gaussian proxy (Bendre et al., 2607.25196): a method's shift replaced by noise of its mean and spread.

    shift = method's scores - s z_0 on the survivors        scores = s z_0 + N(mean shift, sd shift)

Moments are of the row's own step; the noise is from the query's stream. If any shift of that size does as well, the
contrast carries no information. Defined for any number of branches and any s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.base import Strategy, Thread
from decoding.controls.wrapped import ReadsAll
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "gaussian_proxy")
@dataclass(frozen=True)
class GaussianProxy(ReadsAll):
    """Control: noise with the mean and spread of the shift that another strategy makes at each step."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose shift it is

    draws: ClassVar[bool] = True
    rank: ClassVar[int] = 40

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(GaussianProxy(held.strategy))

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.inner_strength(logits, step)

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        import torch

        own = self.of.follow(logits, step, threads)
        base = self.inner_strength(logits, step) * logits[0]
        alive = self.alive(logits, own)
        count = alive.sum(-1, keepdim=True)
        shift = torch.where(alive, own - base, 0.0)
        mean = shift.sum(-1, keepdim=True) / count
        spread = (torch.where(alive, shift - mean, 0.0).square().sum(-1, keepdim=True) / count).sqrt()
        size = logits.shape[-1]
        noise = torch.stack([torch.randn(size, generator=t.key.torch(f"gaussian/{step}")) for t in threads])
        scores: Tensor = base + mean + spread * noise.to(base.device)
        return scores.masked_fill(own == -float("inf"), -float("inf"))
