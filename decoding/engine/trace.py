"""Step traces: the distributions of all branches at each step, recorded with `top_logprobs: 5` in an experiment file.

A step trace holds the most probable tokens and the entropy of every branch and of the combined scores, the divergence
of each branch from the reference, and the weight of each branch. All values come from the float32 logits of the step,
before temperature and cuts of the sampler. They are rounded when they are stored (`decoding.engine.trace_precision`).
The number of plausible tokens is in `decoding.engine.token_loop.TRACE_FIELDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from decoding.arms.inspection import constant_weights
from decoding.base import StepState, Strategy
from decoding.engine.trace_precision import round_nats, round_probabilities
from decoding.formulas.divergences import entropy, jensen_shannon

if TYPE_CHECKING:
    from torch import Tensor

MAX_RESIDUAL = 1e-3
"""Scores count as a weighted sum of the branches if the residual has at most this proportion of their norm."""


@dataclass(frozen=True)
class StepTrace:
    """Distributions at one step of one answer. Lists over branches begin with the reference.

    Attributes:
        chosen: The chosen token.
        ids: [n + 1][at most top] most probable tokens of each branch and, last, of the combined scores, best first.
        probabilities: Their probabilities, without zeros.
        entropy: [n + 1] entropies in nats.
        js_divergence: [n - 1] Jensen-Shannon divergence of each contrast branch from the reference in nats.
        weights: [n] weights of the branches in the combined scores, or None if those are not a weighted sum of logits.
    """

    chosen: int
    ids: list[list[int]]
    probabilities: list[list[float]]
    entropy: list[float]
    js_divergence: list[float]
    weights: list[float] | None


def trace_branches(
    strategy: Strategy,
    logits: "Tensor",
    scores: "Tensor",
    chosen: Sequence[int],
    *,
    step: int,
    states: Sequence[StepState],
    top: int,
) -> list[StepTrace]:
    """One step trace per row.

    Args:
        strategy: Combined the branches.
        logits: Logits of the branches, [n, B, V].
        scores: Combined scores, [B, V], -inf for tokens that are ruled out.
        chosen: Chosen token of each row.
        step: Number of the token, from 0.
        states: State of each row.
        top: Tokens to keep per branch.
    """
    distributions = torch.cat([logits, scores[None]])
    best = distributions.softmax(-1).topk(min(top, distributions.shape[-1]), dim=-1)
    probabilities = [[[p for p in row if p > 0] for row in rows] for rows in best.values.transpose(0, 1).tolist()]
    ranked = best.indices.transpose(0, 1).tolist()
    ids = [[row[: len(p)] for row, p in zip(*pair, strict=True)] for pair in zip(ranked, probabilities, strict=True)]
    entropies = torch.stack([entropy(one)[:, 0] for one in distributions], 1).tolist()
    divergences = [jensen_shannon(logits[0], other)[:, 0] for other in logits[1:]]
    by_row = torch.stack(divergences, 1).tolist() if divergences else [[] for _ in chosen]
    weights = step_weights(strategy, logits, step, states)
    return [StepTrace(*values) for values in zip(chosen, ids, probabilities, entropies, by_row, weights, strict=True)]


def step_weights(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState]
) -> list[list[float] | None]:
    """The weights of the branches in the combined scores of a step: [n] for each row, or None.

    Constant weights are returned as they are. Others are fitted by least squares to the scores before the mask, over
    the tokens with finite values in all branches, each distribution up to a constant. The fit is exact if the strategy
    weighs logits at this step, however it chose the weights.
    """
    constant = constant_weights(strategy)
    if constant is not None and len(constant) == len(logits):
        return [list(constant)] * logits.shape[1]
    scores = strategy.combine_stateful(logits, step, states)
    is_finite = scores.isfinite() & logits.isfinite().all(0)
    count = is_finite.sum(-1, keepdim=True)

    def center(z: "Tensor") -> "Tensor":
        z = z.double().masked_fill(~is_finite, 0.0)
        return (z - z.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~is_finite, 0.0)

    z, target = torch.stack([center(branch) for branch in logits]), center(scores)
    gram = torch.einsum("nbv,mbv->bnm", z, z)
    weights = (torch.linalg.pinv(gram, hermitian=True) @ torch.einsum("nbv,bv->bn", z, target)[..., None])[..., 0]
    residual = (target - torch.einsum("bn,nbv->bv", weights, z)).norm(dim=-1)
    norm = target.norm(dim=-1)
    is_sum = (residual <= MAX_RESIDUAL * norm) & (count[:, 0] > len(logits)) & (norm > 0)
    return [row if ok else None for row, ok in zip(weights.tolist(), is_sum.tolist(), strict=True)]


def serialize_step_traces(
    step_traces: Sequence[StepTrace], stop_tokens: frozenset[int], text: Callable[[list[int]], str]
) -> dict[str, Any]:
    """The step traces of an answer as JSON. The text of each distinct token is stored once.

    Args:
        step_traces: One for each step.
        stop_tokens: Tokens that end an answer. Their text is ''.
        text: Decodes tokens.

    Returns:
        A dict, empty without step traces, with the keys
        words: texts of tokens;
        chosen: [steps] indices into `words`;
        top, p: [steps][n + 1][at most top] indices into `words`, and probabilities;
        entropy, js_divergence, weights: as in `StepTrace`, for each step. Weights that never change are stored once.
    """
    if not step_traces:
        return {}
    index: dict[int, int] = {}

    def word(token: int) -> int:
        return index.setdefault(token, len(index))

    serialized: dict[str, Any] = {
        "chosen": [word(step.chosen) for step in step_traces],
        "top": [[[word(token) for token in row] for row in step.ids] for step in step_traces],
        "p": [[round_probabilities(row) for row in step.probabilities] for step in step_traces],
        "entropy": [round_nats(step.entropy) for step in step_traces],
    }
    if step_traces[0].js_divergence:
        serialized["js_divergence"] = [round_nats(step.js_divergence) for step in step_traces]
        weights = [None if step.weights is None else round_nats(step.weights) for step in step_traces]
        serialized["weights"] = weights[:1] if all(row == weights[0] for row in weights) else weights
    words = ["" if token in stop_tokens else text([token]) or f"#{token}" for token in index]
    return {"words": words, **serialized}
