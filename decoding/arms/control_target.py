"""The arm under test, for which controls are chosen.

`controls: default` calls `control_for` of every registered strategy, in the order of `control_rank`. A control
therefore needs no change in another file.
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
    """An arm under test, with the facts about its run that determine its controls.

    Attributes:
        arm: The arm.
        options: Whether option scores are compared, so that the sampler does not matter.
        shots: Number of shots of the run, or None if unknown.
    """

    arm: "Arm"
    options: bool = False
    shots: int | None = None

    @property
    def strategy(self) -> Strategy:
        return self.arm.strategy

    @property
    def sampler(self) -> Sampler:
        """The sampler of the arm, or the greedy one if the sampler does not matter."""
        return Greedy() if self.options else self.arm.sampler

    @property
    def is_sampled(self) -> bool:
        return not self.sampler.deterministic

    def with_strategy(
        self, strategy: Strategy, sampler: Sampler | None = None, normalize: "Normalize | None" = None
    ) -> "Arm":
        """The arm of another strategy, by default with the sampler and normalization of this arm."""
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
    """Every registered strategy that defines `control_for`, by `control_rank`, then by name."""
    classes = [resolve("strategy", name) for name in entries("strategy")]
    return tuple(sorted((cls for cls in classes if "control_for" in vars(cls)), key=lambda cls: cls.control_rank))
