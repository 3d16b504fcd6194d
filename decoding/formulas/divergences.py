"""Divergences and the entropy of next-token distributions.

Distributions are logits, [B, V]. Results are [B, 1] float32 in nats, unless stated otherwise. A token that neither
distribution can produce (-inf in both) adds nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_logprobs(logits: "Tensor") -> "Tensor":
    """Logarithm of the mean probability over the first dimension, [N, B, V] -> [B, V]. Nothing underflows."""
    import math

    mean: Tensor = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    return mean


def kl_divergence(p: "Tensor", q: "Tensor") -> "Tensor":
    """Kullback-Leibler divergence, sum p log(p / q)."""
    import torch

    p_probs = p.softmax(-1)
    log_ratio = torch.where(p_probs > 0, p.log_softmax(-1) - q.log_softmax(-1), 0.0)
    divergence: Tensor = (p_probs * log_ratio).sum(-1, keepdim=True).clamp(min=0)
    return divergence


def jensen_shannon(p: "Tensor", q: "Tensor") -> "Tensor":
    """Jensen-Shannon divergence, at most log 2: the mean KL divergence of p and q from their average."""
    import torch

    average = (p.softmax(-1) + q.softmax(-1)) / 2
    average_entropy = torch.special.entr(average).sum(-1, keepdim=True)
    divergence: Tensor = (average_entropy - (entropy(p) + entropy(q)) / 2).clamp(min=0)
    return divergence


def reversed_jensen_shannon(p: "Tensor", q: "Tensor") -> "Tensor":
    """Mean KL divergence of the average of p and q from each of them. DoLa's released code calls it JSD."""
    import torch

    p_logprobs, q_logprobs = p.log_softmax(-1), q.log_softmax(-1)
    average = (p_logprobs.exp() + q_logprobs.exp()) / 2
    log_ratio = average.log() - (p_logprobs + q_logprobs) / 2
    divergence: Tensor = torch.where(average > 0, average * log_ratio, 0.0).sum(-1, keepdim=True).clamp(min=0)
    return divergence


def bounded_divergence(p: "Tensor", q: "Tensor", kappa: float) -> "Tensor":
    """CODE's bounded divergence (Kim et al. 2024, 2406.01920), in [0, 1]: .5 sum (p + q) log2(|p - q|^kappa + 1)."""
    import torch

    p_probs, q_probs = p.softmax(-1), q.softmax(-1)
    distance = torch.log2((p_probs - q_probs).abs() ** kappa + 1)
    divergence: Tensor = (((p_probs + q_probs) * distance).sum(-1, keepdim=True) / 2).clamp(0, 1)
    return divergence


def entropy(scores: "Tensor") -> "Tensor":
    """Entropy of softmax(scores): [B, V] -> [B, 1]. A score of -inf has no probability."""
    import torch

    total: Tensor = torch.special.entr(scores.softmax(-1)).sum(-1, keepdim=True)
    return total
