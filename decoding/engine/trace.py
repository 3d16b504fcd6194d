"""What each branch said at a step, kept where it is asked for: `top_logprobs: 5` in an experiment file.

Of every branch and of the combined scores the most probable tokens and the entropy; how far each branch is from the
reference; the weight that each branch had. All of it from the float32 logits that the step was decided on, before the
sampler's temperature and cuts. How many tokens survive and whether the best one changed is in `decoding.engine.token_loop.TRACE`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from decoding.arms.inspection import constant_weights
from decoding.base import StepState, Strategy
from decoding.formulas.divergences import entropy, jensen_shannon

if TYPE_CHECKING:
    from torch import Tensor

FITS = 1e-3
"""A step is a weighted sum of its branches where what is left over has at most this share of the scores' size."""

DIGITS = 4
"""Significant digits that are stored."""


@dataclass(frozen=True)
class StepTrace:
    """One step of one answer.

    chosen: the token that was taken. ids, shares: [n + 1][up to top] tokens and probabilities above 0, the best first;
    of the branches, the reference first, and last of the combined scores. entropy: [n + 1], nats. apart: [n - 1],
    Jensen-Shannon divergence of each other branch from the reference, nats. weights: [n], None where the combined
    scores are no weighted sum of the branches' logits.
    """

    chosen: int
    ids: list[list[int]]
    shares: list[list[float]]
    entropy: list[float]
    js_divergence: list[float]
    weights: list[float] | None


def step_traces(
    strategy: Strategy,
    logits: "Tensor",
    combined: "Tensor",
    chosen: Sequence[int],
    *,
    step: int,
    states: Sequence[StepState],
    top: int,
) -> list[StepTrace]:
    """[B] looks. logits: [n, B, V] of the branches; combined: [B, V] with -inf where a token is ruled out."""
    every = torch.cat([logits, combined[None]])
    best = every.softmax(-1).topk(min(top, every.shape[-1]), dim=-1)
    shares = [[[p for p in row if p > 0] for row in one] for one in best.values.transpose(0, 1).tolist()]
    ranked = best.indices.transpose(0, 1).tolist()
    ids = [[row[: len(p)] for row, p in zip(*both, strict=True)] for both in zip(ranked, shares, strict=True)]
    spread = torch.stack([entropy(one)[:, 0] for one in every], 1).tolist()
    others = [jensen_shannon(logits[0], other)[:, 0] for other in logits[1:]]
    js_divergence = torch.stack(others, 1).tolist() if others else [[] for _ in chosen]
    weights = weights_at(strategy, logits, step, states)
    return [StepTrace(*told) for told in zip(chosen, ids, shares, spread, js_divergence, weights, strict=True)]


def weights_at(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState]
) -> list[list[float] | None]:
    """[B] weights of the branches in the combined scores of a step: the constant ones, else those that fit it.

    Fitted by least squares to the scores before the mask, over the tokens that all have; each distribution counts up to
    a constant. Exact where the method weighs logits at this step, however it came by its weights.
    """
    constant = constant_weights(strategy)
    if constant is not None and len(constant) == len(logits):
        return [list(constant)] * logits.shape[1]
    free = strategy.combine_stateful(logits, step, states)
    seen = free.isfinite() & logits.isfinite().all(0)
    count = seen.sum(-1, keepdim=True)

    def centered(z: "Tensor") -> "Tensor":
        z = z.double().masked_fill(~seen, 0.0)
        return (z - z.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~seen, 0.0)

    z, wanted = torch.stack([centered(branch) for branch in logits]), centered(free)
    gram = torch.einsum("nbv,mbv->bnm", z, z)
    fitted = torch.linalg.pinv(gram, hermitian=True) @ torch.einsum("nbv,bv->bn", z, wanted)[..., None]
    left = (wanted - torch.einsum("bn,nbv->bv", fitted[..., 0], z)).norm(dim=-1)
    fits = (left <= FITS * wanted.norm(dim=-1)) & (count[:, 0] > len(logits)) & (wanted.norm(dim=-1) > 0)
    return [w if ok else None for w, ok in zip(fitted[..., 0].tolist(), fits.tolist(), strict=True)]


def compact(seen: Sequence[StepTrace], stops: frozenset[int], text: Callable[[list[int]], str]) -> dict[str, Any]:
    """The looks of an answer as JSON, each distinct token's text once. Texts are '' for what ends an answer.

    words: texts. chosen: [steps] places in words. top, p: [steps][n + 1][up to top] places in words, probabilities.
    entropy, apart, weights: as in `Look`, a row a step; weights are one row where they are the same at every step.
    """
    if not seen:
        return {}
    place: dict[int, int] = {}

    def word(token: int) -> int:
        return place.setdefault(token, len(place))

    told: dict[str, Any] = {
        "chosen": [word(look.chosen) for look in seen],
        "top": [[[word(token) for token in row] for row in look.ids] for look in seen],
        "p": [[[_rounded(share) for share in row] for row in look.shares] for look in seen],
        "entropy": [[_rounded(value) for value in look.entropy] for look in seen],
    }
    if seen[0].js_divergence:
        told["js_divergence"] = [[_rounded(value) for value in look.js_divergence] for look in seen]
        weights = [look.weights and [_rounded(weight) for weight in look.weights] for look in seen]
        told["weights"] = weights[:1] if all(row == weights[0] for row in weights) else weights
    return {"words": ["" if token in stops else text([token]) or f"#{token}" for token in place], **told}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
