"""Plausibility masks: which tokens stay possible, computed from the reference branch alone.

A mask is [B, V] bool, True where a token survives. Raw logits and log-probabilities give the same mask, because a
constant per row cancels. Every mask keeps the best token of each row, so at least one token survives.
`constants_like` makes constants of a formula a tensor.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.formulas.divergences import entropy
from icl.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor


def plausibility_mask(reference: "Tensor", beta: float) -> "Tensor | None":
    """Adaptive plausibility mask (Li et al. 2022, 2210.15097): p(v) >= beta max p, that is z(v) >= log beta + max z.

    Args:
        reference: Logits of branch 0, [B, V] float32.
        beta: Proportion of the best token's probability, in [0, 1]. 0 masks nothing; 1 keeps the best token and ties.

    Returns:
        [B, V] bool, or None if beta is 0.
    """
    if beta == 0:
        return None
    return reference >= reference.amax(-1, keepdim=True) + math.log(beta)


def kth_plausibility_mask(reference: "Tensor", alpha: float, k: int) -> "Tensor | None":
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


def typical_mask(reference: "Tensor", width: float) -> "Tensor":
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


def constants_like(values: Sequence[float], like: "Tensor") -> "Tensor":
    """[n] with the type and device of another tensor. Filled on the device, so nothing is copied to it."""
    import torch

    return torch.stack([like.new_full((), value) for value in values])
