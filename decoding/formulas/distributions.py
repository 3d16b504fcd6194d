"""Masks, divergences and entropy of next-token distributions, and steps of rows.

Distributions are logits, [..., B, V]. Divergences are [..., B, 1] float32 in nats, unless stated otherwise. A token
that neither distribution can produce (-inf in both) adds nothing. Plausibility masks say which tokens stay possible,
computed from the reference branch alone: [B, V] bool, True where a token survives. Raw logits and log-probabilities
give the same mask, because a constant per row cancels. Every mask keeps the best token of each row, so at least one
token survives.
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from icl import PlanError, Tensor, copied_to_device, torch


def mean_logprobs(logits: Tensor) -> Tensor:
    """Logarithm of the mean probability over the first dimension, [N, B, V] -> [B, V]. Nothing underflows."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence, sum p log(p / q)."""
    p_probs = p.softmax(-1)
    log_ratio = torch.where(p_probs > 0, p.log_softmax(-1) - q.log_softmax(-1), 0.0)
    return (p_probs * log_ratio).sum(-1, keepdim=True).clamp(min=0)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence, at most log 2: the mean KL divergence of p and q from their average."""
    p_probs, q_probs = p.softmax(-1), q.softmax(-1)
    average, p_entropy, q_entropy = (
        torch.special.entr(one).sum(-1, keepdim=True) for one in ((p_probs + q_probs) / 2, p_probs, q_probs)
    )
    divergence: Tensor = (average - (p_entropy + q_entropy) / 2).clamp(min=0)
    return divergence


def reversed_jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Mean KL divergence of the average of p and q from each of them. DoLa's released code calls it JSD."""
    p_logprobs, q_logprobs = p.log_softmax(-1), q.log_softmax(-1)
    average = (p_logprobs.exp() + q_logprobs.exp()) / 2
    log_ratio = average.log() - (p_logprobs + q_logprobs) / 2
    return torch.where(average > 0, average * log_ratio, 0.0).sum(-1, keepdim=True).clamp(min=0)


def bounded_divergence(p: Tensor, q: Tensor, kappa: float) -> Tensor:
    """CODE's bounded divergence (Kim et al. 2024, 2406.01920), in [0, 1]: .5 sum (p + q) log2(|p - q|^kappa + 1)."""
    p_probs, q_probs = p.softmax(-1), q.softmax(-1)
    distance = torch.log2((p_probs - q_probs).abs() ** kappa + 1)
    return (((p_probs + q_probs) * distance).sum(-1, keepdim=True) / 2).clamp(0, 1)


def entropy(scores: Tensor) -> Tensor:
    """Entropy of softmax(scores): [..., B, V] -> [..., B, 1]. A score of -inf has no probability."""
    total: Tensor = torch.special.entr(scores.softmax(-1)).sum(-1, keepdim=True)
    return total


def plausibility_mask(reference: Tensor, beta: float) -> Tensor | None:
    """Adaptive plausibility mask (Li et al. 2022, 2210.15097): p(v) >= beta max p, that is z(v) >= log beta + max z.

    Args:
        reference: Logits of branch 0, [B, V] float32.
        beta: Proportion of the best token's probability, in [0, 1]. 0 masks nothing; 1 keeps the best token and ties.

    Returns:
        [B, V] bool, or None if beta is 0.
    """
    if beta == 0:
        return None
    return is_plausible(reference, reference.amax(-1, keepdim=True), math.log(beta))


def is_plausible(reference: Tensor, best: Tensor, log_beta: float | Tensor) -> Tensor:
    """`plausibility_mask` for one logarithm of beta or one per row, -inf for 0. best: the best logits, [B, 1]."""
    return reference >= best + log_beta


def kth_plausibility_mask(reference: Tensor, alpha: float, k: int) -> Tensor | None:
    """CM3Leon's mask (Yu et al. 2023, 2309.02591): p(v) >= alpha times the k-th largest p.

    With k = 1 it is `plausibility_mask`.

    Args:
        reference: Logits of branch 0, [B, V] float32.
        alpha: Proportion of the k-th best probability, in [0, 1]. 0 masks nothing; 1 keeps the k best tokens and ties.
        k: Rank of the token that others are compared with.

    Returns:
        [B, V] bool, or None if alpha is 0.

    Raises:
        PlanError: k is larger than the vocabulary.
    """
    if k > reference.shape[-1]:
        raise PlanError(f"a mask by the {k}-th best token on a vocabulary of {reference.shape[-1]}. Use a smaller k.")
    if alpha == 0:
        return None
    return reference >= reference.topk(k, -1).values[:, -1:] + math.log(alpha)


def typical_mask(reference: Tensor, width: float) -> Tensor:
    """Entropy band (locally typical tokens): |-log p(v) - H(p)| <= width, and the best token.

    Args:
        reference: Logits of branch 0, [B, V] float32.
        width: Half the width of the band, in nats.

    Returns:
        [B, V] bool.
    """
    logprobs = reference.log_softmax(-1)
    is_typical: Tensor = (-logprobs - entropy(reference)).abs() <= width
    return is_typical | (reference == reference.amax(-1, keepdim=True))


def constants_like(values: Sequence[float], like: Tensor) -> Tensor:
    """[n] with the type and device of another tensor. Filled on the device, so nothing is copied to it."""
    return torch.stack([like.new_full((), value) for value in values])


NUMBER_METHODS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod"),
    *("pow", "rpow", "neg", "abs", "int", "float", "index", "round", "bool", "eq", "ne", "lt", "le", "gt", "ge"),
    *("hash", "str", "repr", "format", "len", "iter", "contains", "getitem"),
)


class RowSteps:
    """The step of each row of a batch, passed in place of the number `step`.

    A strategy that does not use `step` combines all rows at once. Code that knows this class reads the steps with
    `steps_per_row`. Any use as a number raises TypeError, and the engine then combines the rows of each step alone.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)


def _refuse(self: RowSteps, *args: Any) -> NoReturn:
    raise TypeError("the rows stand at different steps; read them with decoding.formulas.distributions.steps_per_row")


for _name in NUMBER_METHODS:
    setattr(RowSteps, f"__{_name}__", _refuse)


def steps_per_row(step: int | RowSteps, count: int) -> list[int]:
    """The step of each of `count` rows."""
    return step.steps if isinstance(step, RowSteps) else [step] * count


def weight_per_row(step: int | RowSteps, weight: Any, like: Tensor) -> float | Tensor:
    """A weight that depends on the step: a number, or [B, 1] float32 if rows stand at different steps.

    Args:
        step: Step of the rows.
        weight: Function from a step to a weight.
        like: Scores of the rows, which give the device.
    """
    if not isinstance(step, RowSteps):
        return float(weight(step))
    return copied_to_device([[weight(one)] for one in step.steps], torch.float32, like.device)
