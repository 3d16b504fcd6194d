"""An arm that is held against controls. Each control says itself whether it fits one (`Strategy.fits`).

`controls: default` asks every registered strategy, in the order of their `rank`, so that a control is one file.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from decoding.base import Strategy
from decoding.formulas.sampling import Greedy, Sampler
from icl.registry import entries, resolve

if TYPE_CHECKING:
    from decoding.arms.arm import Arm, Normalize


@dataclass(frozen=True)
class ControlTarget:
    """The arm, and what of its run decides which controls fit.

    options: option scores are compared, where no sampler plays a part. shots: of the run, None where that is unknown.
    """

    arm: "Arm"
    options: bool = False
    shots: int | None = None

    @property
    def strategy(self) -> Strategy:
        return self.arm.strategy

    @property
    def sampler(self) -> Sampler:
        """How the arm's tokens are drawn, as far as it matters."""
        return Greedy() if self.options else self.arm.sampler

    @property
    def is_sampled(self) -> bool:
        return not self.sampler.deterministic

    def with_strategy(
        self, strategy: Strategy, sampler: Sampler | None = None, normalize: "Normalize | None" = None
    ) -> "Arm":
        """Another strategy, with the arm's own sampler and normalization where others are not given."""
        return replace(
            self.arm,
            strategy=strategy,
            sampler=self.arm.sampler if sampler is None else sampler,
            label="",
            normalize=self.arm.normalize if normalize is None else normalize,
            parameter_sources=(),
        )


@lru_cache
def default_control_classes() -> tuple[type[Strategy], ...]:
    """Every registered strategy with a `fits` of its own, in the order of their ranks, then of their names."""
    known = [resolve("strategy", name) for name in entries("strategy")]
    return tuple(sorted((one for one in known if "control_for" in vars(one)), key=lambda one: one.control_rank))
