"""Parameters fitted on a dev split: biases and priors of options, and weights of groups of demonstrations.

Fits use option scores, so nothing here runs a model. `icl fit` computes the scores and writes the parameters to a JSON
file. A config names this file: `{name: moicl, fitted: weights.json}`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from decoding.base import Strategy
from decoding.formulas.distributions import mean_logprobs
from decoding.interventions.vector_file import SUFFIX, FittedTensors, find_fitted_file, read_vector_file
from icl import ConfigError, DataError, Prompt, Tensor, describe, location, torch

FORMAT = "mm-icl fitted strategy, 1"
MAX_ROUNDS = 10
"""Passes of `fit_option_bias` over the options."""
ADAM_STEPS, ADAM_RATE = 200, 0.1


@dataclass(frozen=True)
class ParameterSource:
    """A file that parameters were read from.

    Attributes:
        file: Its name in the config.
        on: The setting in which they were fitted, as `icl fit` wrote it; {} if it wrote none.
    """

    file: str
    on: Mapping[str, Any]


class Calibrated(Protocol):
    """A strategy that is fitted on a dev split.

    Attributes:
        needs_labels: Whether the fit uses the right answers.
    """

    needs_labels: ClassVar[bool]

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """The strategies that supply option scores to the fit. shots: demonstrations per prompt."""


@runtime_checkable
class Fittable(Calibrated, Protocol):
    """A strategy with parameters that are fitted on option scores."""

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> Strategy:
        """The strategy with fitted parameters.

        Args:
            logprobs: Option scores of the calibration strategies, [queries, strategies, options] log-probabilities.
            gold: Index of each right option; empty without `needs_labels`.
        """


@runtime_checkable
class FitsOnPrompts(Calibrated, Protocol):
    """A strategy with tensors that are fitted on option scores and prompts. Its parameter `fitted` names their file."""

    def fit_on_prompts(self, logprobs: Tensor, gold: Sequence[int], prompts: Sequence[Prompt]) -> FittedTensors:
        """The tensors, and the parameters that they were fitted with. prompts: of the queries of `logprobs`."""


def write_parameter_file(strategy: Strategy, path: Path, how: Mapping[str, Any] | None = None) -> None:
    """Writes the parameters of a strategy as JSON. how: the setting in which they were fitted."""
    node = describe(strategy)
    content = {"format": FORMAT, "strategy": node.pop("name"), "parameters": node, "fitted_on": dict(how or {})}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_parameter_file(name: str, strategy: Any, where: str = "") -> tuple[dict[str, Any], ParameterSource]:
    """The parameters in a file, and their source.

    Args:
        name: The file, relative to the config or the working directory.
        strategy: Name of the strategy in the config.
        where: Position in the config, for messages.

    Raises:
        ConfigError: There is no such file, or it has no parameters of this strategy.
    """
    path = find_fitted_file(name, where)
    if path.suffix == SUFFIX:
        file = read_vector_file(path)
        _check_strategy(path, file.method, strategy, where)
        return {**file.parameters, "fitted": name}, ParameterSource(name, file.record)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fitted_strategy, parameters = content["strategy"], dict(content["parameters"])
        is_readable = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{location(where)}fitted: {path} was not written by `icl fit` ({reason}).") from error
    if not is_readable:
        raise ConfigError(
            f"{location(where)}fitted: {path} has the format '{content['format']}', but this version reads '{FORMAT}'."
        )
    _check_strategy(path, fitted_strategy, strategy, where)
    parameters.pop("code", None)
    on = content.get("fitted_on")
    return parameters, ParameterSource(name, on if isinstance(on, dict) else {})


def _check_strategy(path: Path, fitted: str, strategy: Any, where: str) -> None:
    if fitted != strategy:
        raise ConfigError(f"{location(where)}fitted: {path} has parameters of '{fitted}', not of '{strategy}'.")


def fit_option_bias(scores: Tensor, gold: Sequence[int]) -> tuple[float, ...]:
    """Biases of `constant_bias` that maximize the accuracy on the split. The first option has the bias 0.

    Coordinate ascent: the bias of one option at a time moves to the best value between the thresholds at which queries
    change their answer. Of equally good values, the nearest to the old one is used. The result is exact for two
    options, and a local optimum for more.

    Args:
        scores: Log-probabilities of the reference, [queries, options].
        gold: Index of each right option.

    Returns:
        One bias per option, in nats.

    Raises:
        DataError: There are no queries, or `gold` does not match the scores.
    """
    _check_gold(scores, gold)
    target = torch.as_tensor(gold)
    bias = scores.new_zeros(scores.shape[1])
    for _ in range(MAX_ROUNDS):
        before = bias.clone()
        for option in range(1, scores.shape[1]):
            others = (scores + bias).masked_fill(torch.arange(scores.shape[1]) == option, -float("inf"))
            thresholds = (others.amax(1) - scores[:, option]).sort().values  # where a query changes its answer
            middles = (thresholds[1:] + thresholds[:-1]) / 2
            values = torch.cat([thresholds[:1] - 1, middles, thresholds[-1:] + 1, bias[option, None]])
            candidates = bias.repeat(len(values), 1)
            candidates[:, option] = values
            hits = ((scores + candidates[:, None]).argmax(-1) == target).sum(1)
            best = values[hits == hits.max()]
            bias[option] = best[(best - bias[option]).abs().argmin()]
        if torch.equal(before, bias):
            break
    return tuple(round(float(value), 4) for value in bias)


def estimate_option_prior(logprobs: Tensor) -> tuple[float, ...]:
    """Prior of `batch_calibration`: the mean probability of each option over queries without labels.

    Args:
        logprobs: [queries, options] log-probabilities.

    Returns:
        One probability per option, with six significant digits, above zero, because its logarithm is taken.

    Raises:
        DataError: There are no queries.
    """
    if len(logprobs) == 0:
        raise DataError("a prior needs at least one query.")
    means = mean_logprobs(logprobs.double()).exp().tolist()
    return tuple(max(sys.float_info.min, float(f"{mean:.6g}")) for mean in means)


def fit_mixture_weights(
    logprobs: Tensor, gold: Sequence[int], top_k: int = 0, start: Sequence[float] = (), step: float = 1.0
) -> tuple[float, ...]:
    """Weights of `moicl` that minimize the cross-entropy of the options, by Adam from 1/n on. Without randomness.

    With `top_k`, the weights are w * M(m), where M marks the `top_k` largest of the masking coefficients m. Implicit
    maximum likelihood gives the coefficients a gradient (I-MLE, Niepert et al., NeurIPS 2021, 2106.01798):

        M(m) - M(m - step * gradient of the loss by the mask)

    Section 2.2 of MoICL prints the sum in place of the second difference; it would raise harmful groups.

    Args:
        logprobs: Log-probabilities of the options under each group, [queries, groups, options].
        gold: Index of each right option.
        top_k: Number of groups with a weight; 0: all.
        start: Masking coefficients before the first step, [groups]. By default all 0.
        step: lambda of the paper. 0 leaves the mask of `start`.

    Returns:
        One weight per group.

    Raises:
        DataError: There are no queries, or `gold` does not match the scores.
    """
    _check_gold(logprobs, gold)
    target = torch.as_tensor(gold)
    weights = torch.full((logprobs.shape[1],), 1 / logprobs.shape[1])
    coefficients = weights.new_tensor(start or [0.0] * len(weights))
    optimizer = torch.optim.Adam([weights, coefficients], lr=ADAM_RATE)
    for _ in range(ADAM_STEPS):
        mask = top_mask(coefficients, top_k)
        masked = (weights * mask).requires_grad_()
        with torch.enable_grad():
            mixture = (masked[:, None] * logprobs.detach()).sum(1)
            loss = torch.nn.functional.cross_entropy(mixture, target)
        (gradient,) = torch.autograd.grad(loss, masked)
        weights.grad = gradient * mask
        coefficients.grad = mask - top_mask(coefficients - step * weights * gradient, top_k)
        optimizer.step()
    return tuple(round(float(value), 4) for value in weights * top_mask(coefficients, top_k))


def top_mask(values: Tensor, top_k: int) -> Tensor:
    """1 at the `top_k` largest of the values and 0 elsewhere, [n] -> [n]. `top_k` 0: 1 everywhere."""
    count = min(top_k, len(values)) or len(values)
    return torch.zeros_like(values).index_fill(0, values.topk(count).indices, 1)


def _check_gold(scores: Tensor, gold: Sequence[int]) -> None:
    if len(scores) == 0 or len(scores) != len(gold):
        raise DataError(f"a dev split needs one right answer per query, but has {len(gold)} for {len(scores)} queries.")
    if not all(0 <= index < scores.shape[-1] for index in gold):
        raise DataError(f"gold must be the index of the right option, 0 to {scores.shape[-1] - 1}.")
