"""How far two next-token distributions are apart, [B, V] logits each -> [B, 1] float32.

A token that neither can give (-inf in both) counts nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kl_divergence(p: "Tensor", q: "Tensor") -> "Tensor":
    """Kullback-Leibler, in nats: sum p log(p / q)."""
    import torch

    of_p = p.softmax(-1)
    ratio = torch.where(of_p > 0, p.log_softmax(-1) - q.log_softmax(-1), 0.0)
    total: Tensor = (of_p * ratio).sum(-1, keepdim=True).clamp(min=0)
    return total


def jensen_shannon(p: "Tensor", q: "Tensor") -> "Tensor":
    """Jensen-Shannon, in nats, at most log 2: the mean divergence from the distributions' average."""
    import torch

    of_p, of_q = p.softmax(-1), q.softmax(-1)
    mixed = torch.special.entr((of_p + of_q) / 2).sum(-1, keepdim=True)
    apart: Tensor = (mixed - (entropy(p) + entropy(q)) / 2).clamp(min=0)
    return apart


def reversed_jensen_shannon(p: "Tensor", q: "Tensor") -> "Tensor":
    """Mean KL from the distributions' average to each of them, in nats: what DoLa's released code calls JSD."""
    import torch

    of_p, of_q = p.log_softmax(-1), q.log_softmax(-1)
    mean = (of_p.exp() + of_q.exp()) / 2
    ratios = mean.log() - (of_p + of_q) / 2
    total: Tensor = torch.where(mean > 0, mean * ratios, 0.0).sum(-1, keepdim=True).clamp(min=0)
    return total


def bounded_divergence(p: "Tensor", q: "Tensor", kappa: float) -> "Tensor":
    """CODE's bounded divergence (Kim et al. 2024, 2406.01920), in [0, 1]: .5 sum (p + q) log2(|p - q|^kappa + 1)."""
    import torch

    of_p, of_q = p.softmax(-1), q.softmax(-1)
    apart = torch.log2((of_p - of_q).abs() ** kappa + 1)
    total: Tensor = (((of_p + of_q) * apart).sum(-1, keepdim=True) / 2).clamp(0, 1)
    return total


def entropy(scores: "Tensor") -> "Tensor":
    """[B, V] scores -> [B, 1] entropy of their softmax, in nats; -inf holds no probability."""
    import torch

    total: Tensor = torch.special.entr(scores.softmax(-1)).sum(-1, keepdim=True)
    return total
