"""Plus: every branch added that the method subtracts.

    scores = sum_b |w_b| z_b

For VCD that is (1 + alpha) z_0 + alpha z_1, whose weights sum to 1 + 2 alpha: sharper, where `sign_flip` is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from decoding.arms.inspection import weights_of
from decoding.base import Strategy, Thread
from decoding.controls.wrapped import ReadsAll
from icl.errors import ConfigError
from icl.registry import Nested, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "plus")
@dataclass(frozen=True)
class Plus(ReadsAll):
    """Control: another strategy with all its weights positive. Raises ConfigError where they vary."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose weights they are

    def __post_init__(self) -> None:
        if weights_of(self.of) is None:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' vary, and plus is defined for constant ones. Use "
                "the control sign_flip."
            )

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(map(abs, weights_of(self.of) or ()))

    def follow(self, logits: "Tensor", step: int, threads: Sequence[Thread]) -> "Tensor":
        scores: Tensor = (logits.new_tensor(self.weights)[:, None, None] * logits).sum(0)
        return self.ruled_out(logits, step, threads, scores)
