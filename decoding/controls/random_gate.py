"""Random gate: a method that decides at each step, its decision made by a coin from the query's stream.

For DCD the coin says which of image and text leads; for gating, whether there is a contrast. A method whose gate
knows something beats it. `share` should be how often the method's own gate is open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.gated import Gated
from decoding.base import Strategy, Thread
from decoding.controls.wrapped import ReadsAll
from decoding.strategies.dcd import DCD
from icl.constraints import Share
from icl.errors import ConfigError
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "random_gate")
@dataclass(frozen=True)
class RandomGate(ReadsAll):
    """Control: a gated strategy (dcd, chasd) whose gate is a coin. Raises ConfigError for one without a gate."""

    of: Annotated[Strategy, Nested("strategy")] = field(default_factory=DCD)  # the strategy whose gate it replaces
    share: Share = 0.5  # of steps at which the gate is open

    draws: ClassVar[bool] = True
    rank: ClassVar[int] = 70

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(RandomGate(held.strategy)) if isinstance(held.strategy, Gated) else None

    def __post_init__(self) -> None:
        if not isinstance(self.of, Gated):
            raise ConfigError(
                f"strategy '{type(self.of).__name__}' has no gate that a coin could replace. dcd and chasd have."
            )

    @property
    def masks_in_combine(self) -> bool:  # type: ignore[override]
        """The mask follows the coin."""
        return True

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return self.of.strength(logits, step)

    def mask(self, reference: "Tensor") -> None:
        return None

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        assert isinstance(self.of, Gated)
        coins = [thread.key.number(f"gate/{step}", 53) < self.share * 2**53 for thread in threads]
        gate = (logits.new_tensor(coins) > 0)[:, None]
        scores, mask = self.of.gated(logits, step, gate, threads), self.of.gated_mask(logits[0], gate)
        return scores if mask is None else scores.masked_fill(~mask, -float("inf"))
