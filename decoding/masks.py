"""Which tokens stay plausible: masks that read the reference branch alone.

A mask is [B, V] bool, True where a token survives. Working on raw logits or on log-probabilities is the same: a
constant a row drops out. Every mask keeps each row's best token, so at least one survives.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def plausible(reference: "Tensor", beta: float) -> "Tensor | None":
    """Adaptive plausibility (Li et al. 2022, 2210.15097): p(v) >= beta max p, that is z(v) >= log beta + max z.

    reference: [B, V] float32. beta: share of the best token's probability, in [0, 1]; 0 masks nothing (None), 1 keeps
    the best token and its ties.
    """
    if beta == 0:
        return None
    return reference >= reference.amax(-1, keepdim=True) + math.log(beta)
