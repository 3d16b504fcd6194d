"""Constant bias: one number for each answer option, added for every query alike.

Bendre et al. (2607.25196) find that a constant on the yes-logit does as well on POPE as the best contrast. Fitted on a
dev split (`icl fit`, `decoding.arms.fitting.fitted_bias`), it moves the label prior and nothing else: a contrast that
does not beat it does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.fitting import fit_option_bias
from decoding.base import Strategy
from decoding.traits import Traits
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "constant_bias")
@dataclass(frozen=True)
class ConstantBias(Strategy):
    """Control: the reference's option scores with a fitted constant for each option. Options alone.

    Biases are in nats, in the order of the options; options beyond them get none.
    """

    biases: tuple[float, ...] = (0.0,)  # nats, one for each option in its order

    traits = Traits(combines_options=True, requires_options=True, is_control=True)
    needs_labels: ClassVar[bool] = True

    @property
    def is_unfitted(self) -> bool:
        """Nothing is added to the scores: there was no fit."""
        return not any(self.biases)

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """The reference."""
        return (ConstantBias(),)

    def fit(self, told: "Tensor", gold: Sequence[int]) -> "ConstantBias":
        return replace(self, biases=fit_option_bias(told[:, 0], gold))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        told = logits[0]
        given = told.new_tensor(self.biases)[: told.shape[-1]]
        return told + torch.nn.functional.pad(given, (0, told.shape[-1] - len(given)))
