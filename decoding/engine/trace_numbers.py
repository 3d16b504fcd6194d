"""The numbers of a step that every trace records, computed on the device of the scores."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

TRACE_FIELDS = ("plausible_tokens", "entropy", "changed", "logprob", "gap")
"""Numbers that are recorded for each step of an answer.

plausible_tokens: tokens that the mask keeps. entropy: of the combined distribution in nats, before temperature and cuts
of the sampler. changed: 1 if its best token is not that of the reference. logprob: log-probability of the chosen token,
0 for a forced one (`decoding.engine.thinking_budget`). gap: difference of the two best log-probabilities in nats, at
most MAX_GAP.
"""

MAX_GAP = 1000.0
"""Value of `gap` if the mask keeps a single token."""


def trace_numbers(scores: "Tensor", reference: "Tensor", chosen: "Tensor") -> "Tensor":
    """TRACE_FIELDS of a step for each hypothesis, [B, 5] float32.

    Args:
        scores: Combined scores, [B, V], -inf for tokens that are ruled out.
        reference: Logits of branch 0, [B, V].
        chosen: Chosen tokens, [B] int64.
    """
    plausible = (scores > -float("inf")).sum(-1)
    logprobs = scores.log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    changed = scores.argmax(-1) != reference.argmax(-1)
    logprob = logprobs.gather(-1, chosen[:, None])[:, 0]
    best = logprobs.topk(min(2, logprobs.shape[-1])).values
    gap = (best[:, 0] - best[:, -1]).clamp(max=MAX_GAP)
    return torch.stack([plausible, entropy, changed, logprob, gap], 1)  # in the dtype of the scores
