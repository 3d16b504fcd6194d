"""Loss weights of CAL (Xiao et al., NeurIPS 2024, 2405.17871) from how much each token depends on the image.

    s_t = log p(y_t | image, y_<t) - log p(y_t | no image, y_<t)
    w_t = mean over t and its two neighbors of clamp(s, 1, 5), over the sum of the row

Differs from the released code in the scores and in the pooling: its s_t is a difference of raw logits, which a constant
moves, and its pooling crosses the ends of rows.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = 1.0, 5.0
"""Bounds of the scores in the paper. With 1 as lower bound no token is dropped."""


def cal_weights(scores: "Tensor", counts: "Tensor", lowest: float = LOWEST, highest: float = HIGHEST) -> "Tensor":
    """The weight of each token in the loss of its row.

    Args:
        scores: [R, T] visual correlation of each token in nats.
        counts: [R, T] bool, the tokens of answers. Others have no weight and are no neighbors.
        lowest: Lower bound of the scores.
        highest: Upper bound of the scores.

    Returns:
        [R, T]. Each row with a token sums to one.
    """
    import torch
    from torch.nn.functional import avg_pool1d

    bounded = torch.where(counts, scores.clamp(lowest, highest), 0.0)
    pooled = [avg_pool1d(x[:, None], 3, stride=1, padding=1)[:, 0] for x in (bounded, counts.to(scores.dtype))]
    means = torch.where(counts, pooled[0] / pooled[1].clamp(min=1 / 3), 0.0)
    total: Tensor = means.sum(-1, keepdim=True)
    return means / total.clamp(min=torch.finfo(means.dtype).tiny)
