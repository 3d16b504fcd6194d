"""Batch calibration (Zhou et al., ICLR 2024, 2309.17249): options against their mean share over many queries.

    score = log p(option | prompt) - gamma log prior(option),     prior = mean_i p(option | prompt i)

The prior of a context is what the model says on average, over queries without labels. The paper takes the batch under
test itself (gamma 1, BC), or learns gamma on a few labels (BCL). Here the prior is fitted once, by `icl fit` on the
queries of a config (they may be the test queries: no label is read), and a sample's score depends on no other sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.fitting import estimate_option_prior
from decoding.base import Strategy
from decoding.traits import Traits
from icl.constraints import NonNegative, Positive
from icl.registry import component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "batch_calibration")
@dataclass(frozen=True)
class BatchCalibration(Strategy):
    """Option shares divided by their mean over unlabeled queries. Options alone.

    The prior is in the order of the options; options beyond it have a prior of 1, and so has every one without a fit.
    """

    prior: tuple[Positive, ...] = (1.0,)  # mean share of each option
    gamma: NonNegative = 1.0  # how much of the prior is taken out; 0 is the reference

    traits = Traits(combines_options=True, requires_options=True)
    needs_labels: ClassVar[bool] = False
    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 0.0}

    @property
    def is_unfitted(self) -> bool:
        """Nothing is taken out of the scores: there was no fit."""
        return set(self.prior) == {1.0} or self.gamma == 0

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """The reference."""
        return (BatchCalibration(),)

    def fit(self, told: "Tensor", gold: Sequence[int]) -> "BatchCalibration":
        return replace(self, prior=estimate_option_prior(told[:, 0]))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        told = logits[0]
        prior = told.new_tensor(self.prior)[: told.shape[-1]].log()
        return told - self.gamma * torch.nn.functional.pad(prior, (0, told.shape[-1] - len(prior)))
