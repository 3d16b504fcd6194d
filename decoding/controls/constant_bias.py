"""Constant bias: one number per answer option, equal for all queries.

Bendre et al. (2607.25196) find that a constant on the yes-logit is as good on POPE as the best contrast. `icl fit` fits
it on a dev split (`decoding.arms.fitting.fit_option_bias`). It changes the label prior only. A contrast that is not
better than this control may do no more.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from decoding import Strategy, Traits, constants_like
from decoding.arms.fitting import fit_option_bias
from icl import Tensor, component, torch


@component("strategy", "constant_bias")
@dataclass(frozen=True)
class ConstantBias(Strategy):
    """Control: the reference's option scores plus a fitted constant per option. For option scoring only.

    Options beyond the fitted ones have the bias 0.
    """

    biases: tuple[float, ...] = (0.0,)  # in nats, in the order of the options

    traits = Traits(combines_options=True, requires_options=True, is_control=True)
    needs_labels: ClassVar[bool] = True

    @property
    def is_unfitted(self) -> bool:
        return not any(self.biases)

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """The control without biases."""
        return (ConstantBias(),)

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> "ConstantBias":
        return replace(self, biases=fit_option_bias(logprobs[:, 0], gold))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        options = logits[0]
        biases = constants_like(self.biases, options)[: options.shape[-1]]
        return options + torch.nn.functional.pad(biases, (0, options.shape[-1] - len(biases)))
