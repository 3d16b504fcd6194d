"""Batch calibration (Zhou et al., ICLR 2024, 2309.17249): options relative to their mean probability over queries.

    score = log p(option | prompt) - gamma log prior(option),     prior = mean_i p(option | prompt i)

The prior is the mean prediction over queries without labels. The paper uses the batch under test (gamma 1, BC), or
learns gamma from a few labels (BCL). Here `icl fit` estimates the prior once, on the queries of a config. They may be
the test queries, because no label is read. The score of a sample does not depend on other samples.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.fitting import estimate_option_prior
from decoding.base import Strategy, Traits
from icl.registry import NonNegative, Positive, component

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "batch_calibration")
@dataclass(frozen=True)
class BatchCalibration(Strategy):
    """Option probabilities divided by their mean over unlabeled queries. For option scoring only.

    The prior is in the order of the options. Options beyond it have a prior of 1, as all options have before a fit.
    """

    prior: tuple[Positive, ...] = (1.0,)  # mean probability of each option
    gamma: NonNegative = 1.0  # exponent of the prior; 0 is the reference

    traits = Traits(combines_options=True, requires_options=True)
    needs_labels: ClassVar[bool] = False
    neutral_parameters: ClassVar[dict[str, float]] = {"gamma": 0.0}

    @property
    def is_unfitted(self) -> bool:
        return set(self.prior) == {1.0} or self.gamma == 0

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """The strategy without a prior."""
        return (BatchCalibration(),)

    def fit(self, logprobs: "Tensor", gold: Sequence[int]) -> "BatchCalibration":
        return replace(self, prior=estimate_option_prior(logprobs[:, 0]))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        options = logits[0]
        prior = torch.tensor(self.prior[: options.shape[-1]], dtype=torch.float64).log().to(options)
        return options - self.gamma * torch.nn.functional.pad(prior, (0, options.shape[-1] - len(prior)))
