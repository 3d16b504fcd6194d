"""Parameters fitted on a dev split: constants and priors of options, and the weights of groups of demonstrations.

What is fitted are scores that option scoring gave, so nothing here runs a model. `icl fit` gets the scores and writes
the parameters into a file, JSON that a person can read, which a config names: `{name: moicl, fitted: weights.json}`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from icl.errors import ConfigError, DataError
from icl.loading import SEARCH_FOLDERS, location

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.base import Strategy

FORMAT = "mm-icl fitted strategy, 1"


@dataclass(frozen=True)
class ParameterSource:
    """Where fitted parameters are from. on: what `icl fit` wrote of the setting they were found in; {}: nothing."""

    file: str
    on: Mapping[str, Any]


@runtime_checkable
class Fittable(Protocol):
    """A strategy with parameters that a dev split decides. fits_gold: whether the right answers are read."""

    needs_labels: ClassVar[bool]

    def calibration_strategies(self, shots: int) -> "tuple[Strategy, ...]":
        """The strategies whose option scores it is fitted on. shots: demonstrations of each prompt."""
        ...

    def fit(self, told: "Tensor", gold: Sequence[int]) -> "Strategy":
        """The same strategy with its parameters found.

        told: [queries, measures, options] log-probabilities. gold: place of each right option; empty without fits_gold.
        """
        ...


def write_parameter_file(strategy: "Strategy", path: Path, how: Mapping[str, Any] | None = None) -> None:
    """The strategy's parameters as JSON. how: what they were fitted on, for people."""
    from icl.registry import describe

    node = describe(strategy)
    told = {"format": FORMAT, "strategy": node.pop("name"), "parameters": node, "fitted_on": dict(how or {})}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_parameters(name: str, strategy: Any, where: str = "") -> dict[str, Any]:
    """The parameters in a file, which may lie beside the config. Raises ConfigError where it is no file of theirs."""
    return read_parameter_file(name, strategy, where)[0]


def read_parameter_file(name: str, strategy: Any, where: str = "") -> tuple[dict[str, Any], ParameterSource]:
    """The same, and what the file says of where they are from."""
    path = _found(name, where)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        known, parameters = told["strategy"], dict(told["parameters"])
        right = told["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{location(where)}fitted: {path} is no file that `icl fit` has written ({why}).") from error
    if not right:
        raise ConfigError(
            f"{location(where)}fitted: {path} says '{told['format']}', and this version reads '{FORMAT}'."
        )
    if known != strategy:
        raise ConfigError(f"{location(where)}fitted: {path} has parameters of '{known}', and this is '{strategy}'.")
    parameters.pop("code", None)
    on = told.get("fitted_on")
    return parameters, ParameterSource(name, on if isinstance(on, dict) else {})


def _found(name: str, where: str) -> Path:
    tried = (
        [Path(name)] if Path(name).is_absolute() else [folder / name for folder in (Path.cwd(), *SEARCH_FOLDERS.get())]
    )
    path = next((place for place in tried if place.is_file()), None)
    if path is not None:
        return path
    other = next((place for place in tried if place.exists()), None)
    if other is not None:
        kind = "a directory" if other.is_dir() else "a pipe, a device or a socket"
        raise ConfigError(f"{location(where)}fitted: {other} is {kind}, not a file. `icl fit` writes one.")
    looked = ", ".join(str(place.parent) for place in tried)
    raise ConfigError(f"{location(where)}fitted: there is no file {name} (looked in {looked}). `icl fit` writes one.")


def fit_option_bias(scores: "Tensor", gold: Sequence[int], rounds: int = 10) -> tuple[float, ...]:
    """For `constant_bias`: one number an option (the first 0) with which most of the split is right.

    scores: [queries, options] log-probabilities of the reference. gold: place of the right option. One option's bias is
    moved at a time to the best place between the queries' thresholds, the nearest to where it was; exact for two
    options, and a local best beyond. Raises DataError where scores and gold do not go together.
    """
    import torch

    _checked(scores, gold)
    right = torch.as_tensor(gold)
    bias = scores.new_zeros(scores.shape[1])
    for _ in range(rounds):
        before = bias.clone()
        for option in range(1, scores.shape[1]):
            others = (scores + bias).masked_fill(torch.arange(scores.shape[1]) == option, -float("inf"))
            wins_at = (others.amax(1) - scores[:, option]).sort().values  # biases at which a query changes its answer
            between = torch.cat(
                [wins_at[:1] - 1, (wins_at[1:] + wins_at[:-1]) / 2, wins_at[-1:] + 1, bias[option, None]]
            )
            tried = bias.repeat(len(between), 1)
            tried[:, option] = between
            hits = ((scores + tried[:, None]).argmax(-1) == right).sum(1)
            best = between[hits == hits.max()]
            bias[option] = best[(best - bias[option]).abs().argmin()]
        if torch.equal(before, bias):
            break
    return tuple(round(float(value), 4) for value in bias)


def estimate_option_prior(told: "Tensor") -> tuple[float, ...]:
    """For `batch_calibration`: the mean share of each option over queries without labels.

    told: [queries, options] log-probabilities. No share is below 1e-6: its logarithm is taken.
    """
    if len(told) == 0:
        raise DataError("a prior needs at least one query.")
    return tuple(max(1e-6, round(float(share), 6)) for share in told.softmax(-1).mean(0))


def fit_mixture_weights(told: "Tensor", gold: Sequence[int], steps: int = 200, rate: float = 0.1) -> tuple[float, ...]:
    """For `moicl`: weights of groups of demonstrations, from 1/n on, by gradient on the cross-entropy of the options.

    told: [queries, groups, options] log-probabilities. gold: place of the right option. Adam; no randomness.
    """
    import torch

    _checked(told, gold)
    right = torch.as_tensor(gold)
    weights = torch.full((told.shape[1],), 1 / told.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            mixed = (weights[:, None] * told.detach()).sum(1)
            loss = torch.nn.functional.cross_entropy(mixed, right)
            (weights.grad,) = torch.autograd.grad(loss, weights)
            optimizer.step()
    return tuple(round(float(value), 4) for value in weights.detach())


def _checked(scores: "Tensor", gold: Sequence[int]) -> None:
    if len(scores) == 0 or len(scores) != len(gold):
        raise DataError(f"a dev split needs as many answers as queries, and at least one: {len(scores)}, {len(gold)}.")
    if not all(0 <= place < scores.shape[-1] for place in gold):
        raise DataError(f"gold names the place of the right option, 0 to {scores.shape[-1] - 1}.")
