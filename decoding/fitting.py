"""Parameters fitted on a dev split: a constant for each option, and the weights of groups of demonstrations.

Both take scores that option scoring gave, so they run no model. What they return goes into a config.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def fitted_bias(scores: "Tensor", gold: Sequence[int], rounds: int = 10) -> tuple[float, ...]:
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


def mixture_weights(told: "Tensor", gold: Sequence[int], steps: int = 200, rate: float = 0.1) -> tuple[float, ...]:
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
