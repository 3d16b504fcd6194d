"""Plus: the branches of a method with the absolute values of its weights.

    scores = sum_b |w_b| z_b

For VCD this is (1 + alpha) z_0 + alpha z_1. Its weights sum to 1 + 2 alpha, so it is sharper, unlike `sign_flip`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from decoding.arms.inspection import constant_weights
from decoding.base import StepState, Strategy
from decoding.controls.base import AllBranchesControl
from decoding.formulas.masks import constants_like
from icl.errors import ConfigError
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "plus")
@dataclass(frozen=True)
class Plus(AllBranchesControl):
    """Control: another strategy with positive weights. Raises ConfigError if its weights vary."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose weights are used

    def __post_init__(self) -> None:
        if constant_weights(self.of) is None:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' vary, but plus needs constant weights. Use the "
                "control sign_flip."
            )

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(map(abs, constant_weights(self.of) or ()))

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        weights = constants_like(self.weights, logits)
        scores: Tensor = (weights[:, None, None] * logits).sum(0)
        return self.apply_inner_mask(logits, step, states, scores)
