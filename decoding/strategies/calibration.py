"""Calibration: the class prior of the prompt is estimated and removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from decoding import Note, Strategy, Traits, mean_logprobs, remove_query_image, replace_question, zero_strength
from decoding.arms.fitting import estimate_option_prior
from icl import ConfigError, NonNegative, Positive, Prompt, Tensor, component, torch
from icl.edits import Blank


@component("strategy", "contextual_calibration")
@dataclass(frozen=True)
class ContextualCalibration(Strategy):
    """Option probabilities divided by their mean for content-free queries. For option scoring only.

    Contextual calibration (Zhao et al., ICML 2021, 2102.09690): options relative to content-free queries.

        p(option) ~ p(option | prompt) / mean_j p(option | demonstrations, content-free query j)

    p is normalized over the options. This is softmax(W p + b) with W = diag(1 / p_cf) and b = 0, as in the paper for
    classification. The content-free queries follow the paper: "N/A", "[MASK]" and the empty text. The image of the
    query is content too, so a blank image replaces it, or it is removed.

    Differs from the released code in the normalization over the options, which each content-free query has here before
    the mean (there the label words have their raw probabilities), and in the query's image.
    """

    weights: ClassVar[None] = None

    texts: tuple[str, ...] = ("N/A", "[MASK]", "")  # replace the query's question, one branch each
    image: Literal["blank", "none"] = "blank"  # replaces the query's image

    traits = Traits(combines_options=True, requires_options=True)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("texts is empty, but contextual calibration needs at least one content-free question.")

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return zero_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        imageless = prompt.edit(Blank(), "query") if self.image == "blank" else remove_query_image(prompt)
        return prompt, *(replace_question(imageless, text) for text in self.texts)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0].log_softmax(-1) - mean_logprobs(logits[1:])


@component("strategy", "batch_calibration")
@dataclass(frozen=True)
class BatchCalibration(Strategy):
    """Option probabilities divided by their mean over unlabeled queries. For option scoring only.

    Batch calibration (Zhou et al., ICLR 2024, 2309.17249): options relative to their mean probability over queries.

        score = log p(option | prompt) - gamma log prior(option),     prior = mean_i p(option | prompt i)

    The prior is the mean prediction over queries without labels. The paper uses the batch under test (gamma 1, BC), or
    learns gamma from a few labels (BCL). Here `icl fit` estimates the prior once, on the queries of a config. They may
    be the test queries, because no label is read. The score of a sample does not depend on other samples.

    No released code was compared.

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

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> "BatchCalibration":
        return replace(self, prior=estimate_option_prior(logprobs[:, 0]))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        options = logits[0]
        prior = torch.tensor(self.prior[: options.shape[-1]], dtype=torch.float64).log().to(options)
        return options - self.gamma * torch.nn.functional.pad(prior, (0, options.shape[-1] - len(prior)))
