"""Plus: every branch added that the method subtracts.

    scores = sum_b |w_b| z_b

For VCD that is (1 + alpha) z_0 + alpha z_1, whose weights sum to 1 + 2 alpha: sharper, where `sign_flip` is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from decoding.arms.inspection import constant_weights
from decoding.base import StepState, Strategy
from decoding.controls.base import AllBranchesControl
from icl.errors import ConfigError
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "plus")
@dataclass(frozen=True)
class Plus(AllBranchesControl):
    """Control: another strategy with all its weights positive. Raises ConfigError where they vary."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose weights they are

    def __post_init__(self) -> None:
        if constant_weights(self.of) is None:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' vary, and plus is defined for constant ones. Use "
                "the control sign_flip."
            )

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(map(abs, constant_weights(self.of) or ()))

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        scores: Tensor = (logits.new_tensor(self.weights)[:, None, None] * logits).sum(0)
        return self.apply_inner_mask(logits, step, states, scores)
