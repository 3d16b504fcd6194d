"""Which tokens stay plausible: masks that read the reference branch alone.

A mask is [B, V] bool, True where a token survives. Working on raw logits or on log-probabilities is the same: a
constant a row drops out. Every mask keeps each row's best token, so at least one survives.
"""

import math
from typing import TYPE_CHECKING

from decoding.formulas.divergences import entropy
from icl.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor


def plausibility_mask(reference: "Tensor", beta: float) -> "Tensor | None":
    """Adaptive plausibility (Li et al. 2022, 2210.15097): p(v) >= beta max p, that is z(v) >= log beta + max z.

    reference: [B, V] float32. beta: share of the best token's probability, in [0, 1]; 0 masks nothing (None), 1 keeps
    the best token and its ties.
    """
    if beta == 0:
        return None
    return reference >= reference.amax(-1, keepdim=True) + math.log(beta)


def kth_plausibility_mask(reference: "Tensor", alpha: float, k: int) -> "Tensor | None":
    """CM3Leon's (Yu et al. 2023, 2309.02591): p(v) >= alpha times the k-th largest p; k = 1 is `plausible`.

    alpha: in [0, 1]; 0 masks nothing (None), 1 keeps the k best and ties. Raises PlanError where k is beyond the
    vocabulary.
    """
    if k > reference.shape[-1]:
        raise PlanError(f"a mask by the {k}-th best token on a vocabulary of {reference.shape[-1]}. Make k smaller.")
    if alpha == 0:
        return None
    return reference >= reference.topk(k, -1).values[:, -1:] + math.log(alpha)


def typical_mask(reference: "Tensor", width: float) -> "Tensor":
    """An entropy band (locally typical tokens): |-log p(v) - H(p)| <= width, and the best token.

    width: in nats.
    """
    told = reference.log_softmax(-1)
    near: Tensor = (-told - entropy(reference)).abs() <= width
    return near | (reference == reference.amax(-1, keepdim=True))
