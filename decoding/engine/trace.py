"""Step traces: the distributions of all branches at each step, recorded with `top_logprobs: 5` in an experiment file.

A step trace holds the most probable tokens and the entropy of every branch and of the combined scores, the divergence
of each branch from the reference, and the weight of each branch. All values come from the float32 logits of the step,
before temperature and cuts of the sampler. They are rounded when they are stored (`decoding.engine.trace_precision`).
The number of plausible tokens is in `decoding.engine.trace.TRACE_FIELDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from decoding import StepState, constant_weights, entropy, jensen_shannon
from decoding.engine.trace_precision import round_nats, round_probabilities
from icl import Strategy, Tensor
from icl.memory import on_device_with_float64, read_together

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

    def with_top(self, top: int) -> "StepTrace":
        """The step trace with at most so many tokens of each distribution."""
        probabilities = [row[:top] for row in self.probabilities]
        return replace(self, ids=[row[:top] for row in self.ids], probabilities=probabilities)


def trace_branches(
    strategy: Strategy,
    logits: Tensor,
    scores: Tensor,
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
    tensors = trace_tensors(strategy, logits, scores, step=step, states=states, top=top)
    return step_traces(strategy, len(logits), read_together(tensors), chosen)


def trace_tensors(
    strategy: Strategy, logits: Tensor, scores: Tensor, *, step: int, states: Sequence[StepState], top: int
) -> list[Tensor]:
    """What the step traces of all rows are made of, on the device: tensors [B, K] for `step_traces`."""
    distributions = torch.cat([logits, scores[None]])
    best = distributions.softmax(-1).topk(min(top, distributions.shape[-1]), dim=-1)
    return [
        best.values.transpose(0, 1).flatten(1),
        best.indices.transpose(0, 1).flatten(1),
        entropy(distributions)[..., 0].T,
        jensen_shannon(logits[0], logits[1:])[..., 0].T,
        *_weight_equations(strategy, logits, step, states),
    ]


def step_traces(
    strategy: Strategy, num_branches: int, read: Sequence[Sequence[list[float]]], chosen: Sequence[int]
) -> list[StepTrace]:
    """One step trace per row.

    Args:
        strategy: Combined the branches.
        num_branches: Number of branches.
        read: The rows of the tensors of `trace_tensors`, on the host.
        chosen: Chosen token of each row.
    """
    probabilities, ids, entropies, divergences, *equations = read
    weights = _solve(strategy, num_branches, equations, len(chosen))
    traces = []
    for i, token in enumerate(chosen):
        size = len(ids[i]) // (num_branches + 1)
        ranked = [range(start, start + size) for start in range(0, len(ids[i]), size)]
        positive = [[place for place in places if probabilities[i][place] > 0] for places in ranked]
        traces.append(
            StepTrace(
                token,
                [[int(ids[i][place]) for place in places] for places in positive],
                [[probabilities[i][place] for place in places] for places in positive],
                entropies[i],
                divergences[i],
                weights[i],
            )
        )
    return traces


def step_weights(
    strategy: Strategy, logits: Tensor, step: int, states: Sequence[StepState]
) -> list[list[float] | None]:
    """The weights of the branches in the combined scores of a step: [n] for each row, or None.

    Constant weights are returned as they are. Others are fitted by least squares to the scores before the mask, over
    the tokens with finite values in all branches, each distribution up to a constant. The fit is exact if the strategy
    weighs logits at this step, however it chose the weights.
    """
    equations = read_together(_weight_equations(strategy, logits, step, states))
    return _solve(strategy, len(logits), equations, logits.shape[1])


def _constant_weights(strategy: Strategy, num_branches: int) -> list[float] | None:
    constant = constant_weights(strategy)
    return list(constant) if constant is not None and len(constant) == num_branches else None


def _weight_equations(strategy: Strategy, logits: Tensor, step: int, states: Sequence[StepState]) -> list[Tensor]:
    """The normal equations of the fit of `step_weights`: G [B, n * n], b [B, n], and [B, 2] |target|^2 and the number
    of tokens. Nothing for constant weights.
    """
    if _constant_weights(strategy, len(logits)) is not None:
        return []
    scores = strategy.combine_stateful(logits, step, states)
    return _normal_equations(on_device_with_float64(logits), on_device_with_float64(scores))


def _normal_equations(logits: Tensor, scores: Tensor) -> list[Tensor]:
    """The equations of `_weight_equations` in float64: in float32 the residual of an exact fit would not vanish."""
    is_finite = scores.isfinite() & logits.isfinite().all(0)
    count = is_finite.sum(-1, keepdim=True)

    def center(z: Tensor) -> Tensor:
        z = z.double().masked_fill(~is_finite, 0.0)
        return (z - z.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~is_finite, 0.0)

    z, target = torch.stack([center(branch) for branch in logits]), center(scores)
    gram = torch.einsum("nbv,mbv->bnm", z, z)
    size = torch.cat([target.square().sum(-1, keepdim=True), count.double()], 1)
    return [gram.flatten(1), torch.einsum("nbv,bv->bn", z, target), size]


def _solve(
    strategy: Strategy, num_branches: int, equations: Sequence[Sequence[list[float]]], count: int
) -> list[list[float] | None]:
    """The weights of `step_weights` from its equations. Matrices are inverted on the host, which must check them."""
    if not equations:
        constant = _constant_weights(strategy, num_branches)
        return [None if constant is None else list(constant) for _ in range(count)]
    gram, product, size = (torch.tensor(rows, dtype=torch.float64) for rows in equations)
    gram = gram.view(-1, num_branches, num_branches)
    weights = (torch.linalg.pinv(gram, hermitian=True) @ product[..., None])[..., 0]
    norm = size[:, 0]
    fitted = torch.einsum("bn,bnm,bm->b", weights, gram, weights)
    residual = (norm - 2 * (weights * product).sum(-1) + fitted).clamp(min=0.0)  # |target - fit|^2
    is_sum = (residual <= MAX_RESIDUAL**2 * norm) & (size[:, 1] > num_branches) & (norm > 0)
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


TRACE_FIELDS = ("plausible_tokens", "entropy", "changed", "logprob", "gap")
"""Numbers that are recorded for each step of an answer.

plausible_tokens: tokens that the mask keeps. entropy: of the combined distribution in nats, before temperature and cuts
of the sampler. changed: 1 if its best token differs from the reference's. logprob: log-probability of the chosen token,
0 for a forced one (`decoding.engine.thinking_budget`). gap: difference of the two best log-probabilities in nats, at
most MAX_GAP.
"""

MAX_GAP = 1000.0
"""Value of `gap` if the mask keeps a single token."""


def trace_numbers(scores: Tensor, reference: Tensor, chosen: Tensor) -> Tensor:
    """TRACE_FIELDS of a step for each hypothesis, [B, 5] float32.

    Args:
        scores: Combined scores, [B, V], -inf for tokens that are ruled out.
        reference: Logits of branch 0, [B, V]; `scores` itself if they are the scores.
        chosen: Chosen tokens, [B] int64.
    """
    plausible = (scores > -float("inf")).sum(-1)
    logprobs = scores.log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    changed = chosen < 0 if reference is scores else scores.argmax(-1) != reference.argmax(-1)
    logprob = logprobs.gather(-1, chosen[:, None])[:, 0]
    best = logprobs.topk(min(2, logprobs.shape[-1])).values
    gap = (best[:, 0] - best[:, -1]).clamp(max=MAX_GAP)
    return torch.stack([plausible, entropy, changed, logprob, gap], 1)  # in the dtype of the scores
