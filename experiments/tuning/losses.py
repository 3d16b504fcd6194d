"""Training losses as functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Target of a position without a loss, as in `torch.nn.functional.cross_entropy`."""


def answer_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Sum of the cross-entropy of the answers' tokens (supervised fine-tuning).

    Args:
        logits: [R, W, V], the scores of the token at each position, from the position before it.
        targets: [R, W], the tokens. Positions outside an answer have `IGNORED`.

    Returns:
        The sum in nats, a float32 scalar, and the number of tokens.
    """
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, int((targets != IGNORED).sum())


def sequence_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each answer: [R] float32 in nats, the sum over its tokens. Arguments as `answer_loss`."""
    each = F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none")
    return -each.sum(-1)


def dpo_loss(chosen: Tensor, rejected: Tensor, base_chosen: Tensor, base_rejected: Tensor, beta: float) -> Tensor:
    """Sum over pairs of the loss of direct preference optimization (Rafailov et al., NeurIPS 2023, equation 7).

    - log sigmoid(beta [(chosen - base_chosen) - (rejected - base_rejected)])

    Args:
        chosen: [N], log-probabilities of the right answers under the model that trains.
        rejected: [N], of the wrong answers.
        base_chosen: [N], of the right answers under the base model.
        base_rejected: [N], of the wrong answers under the base model.
        beta: Weight of the distance from the base model.
    """
    return -F.logsigmoid(beta * ((chosen - base_chosen) - (rejected - base_rejected))).sum()


def preference_loss(tuned: Tensor, base: Tensor, beta: float) -> Tensor:
    """Sum over episodes and alternatives of `dpo_loss`. Log-probabilities of a right answer and its alternatives.

    With one alternative it is DPO. With two, the answer of another image y' and the answer y to the other image v', it
    is Re-Align (Xing et al., 2025): lr(y | v) is log p(y | v) - log p0(y | v),

        - log sigmoid(beta [lr(y | v) - lr(y' | v)]) - log sigmoid(beta [lr(y | v) - lr(y | v')])

    Args:
        tuned: [1 + A, N], under the model that trains, the right answers first.
        base: [1 + A, N], under the base model.
        beta: Weight of the distance from the base model.
    """
    pairs = zip(tuned[1:], base[1:], strict=True)
    return torch.stack([dpo_loss(tuned[0], other, base[0], base_other, beta) for other, base_other in pairs]).sum()


def distillation_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Sum over the answers' tokens of KL(teacher || student), in nats.

    Args:
        student: [R, W, V], logits of the model that trains.
        teacher: [R, W, V], logits of the model that it shall follow.
        targets: [R, W]. Positions outside an answer have `IGNORED`.
    """
    own, other = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    each = F.kl_div(own, other, log_target=True, reduction="none").sum(-1)
    return (each * (targets != IGNORED)).sum()


def learning_rate(step: int, steps: int, top: float, warmup: float) -> float:
    """The rate of a step: it rises linearly over the warm-up and then falls linearly to 0 after the last step.

    Args:
        step: Number of the step, from 0.
        steps: All steps.
        top: The largest rate.
        warmup: Share of the steps in which the rate rises.
    """
    rising = round(warmup * steps)
    if step < rising:
        return top * (step + 1) / rising
    return top * (steps - step) / max(1, steps - rising)


def is_finite(value: Tensor) -> bool:
    """Whether a loss or a gradient norm is a number."""
    return bool(torch.isfinite(value).all())
