"""One decoding step: branch logits to combined scores, the same for the token loop and for option scoring.

The mask is read from branch 0, then the branches are combined, then masked tokens become -inf. A row whose scores
cannot be used is told by a sentence and does not touch the others.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from decoding.base import InitialStepState, StepState, Strategy
from icl.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor

NEG_INF = -float("inf")


def scores(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState] = ()
) -> "tuple[Tensor, dict[int, str]]":
    """logits: [n, B, V] float32 -> (scores [B, V] with -inf where a token is ruled out, {row: what is wrong}).

    threads: the answers that the rows belong to; new ones where there are none.

    A token that the reference itself bans (-inf) stays banned. -inf elsewhere, NaN and +inf are faults; the scores of
    a faulty row are zeros.
    """
    banned: Tensor | None = None
    faults: dict[int, str] = {}
    if not bool(logits.sum(-1).isfinite().all()):
        logits, banned, faults = _examined(logits, step)
    combined = strategy.combine_stateful(logits, step, states or [InitialStepState() for _ in range(logits.shape[1])])
    mask = strategy.mask(logits[0])
    for what, given in (("combine", combined), ("mask", mask)):
        if given is not None and given.shape != logits.shape[1:]:
            raise PlanError(
                f"{type(strategy).__name__}.{what} gave {list(given.shape)} for branches of {list(logits.shape[1:])} "
                "(rows, vocabulary). All branches have one vocabulary, and so has what is made of them."
            )
    if mask is not None:
        combined = combined.masked_fill(~mask, NEG_INF)
    if banned is not None:
        combined = combined.masked_fill(banned, NEG_INF)
    best = combined.amax(-1)
    if not bool(best.isfinite().all()):
        for row in (~best.isfinite()).nonzero()[:, 0].tolist():
            what = "rule out every token" if best[row] == NEG_INF else "are not finite"
            faults.setdefault(row, f"step {step}: the combined scores of {type(strategy).__name__} {what}")
    if faults:
        combined = combined.index_fill(0, torch.tensor(sorted(faults), device=combined.device), 0.0)
    return combined, faults


def _examined(logits: "Tensor", step: int) -> "tuple[Tensor, Tensor, dict[int, str]]":
    """(logits with faulty rows zeroed, tokens that the reference bans [B, V], faults by row)."""
    banned = logits[0] == NEG_INF
    wrong = ~logits.isfinite() & ~(banned & (logits == NEG_INF))
    faults: dict[int, str] = {}
    for branch, row in wrong.any(-1).nonzero().tolist():
        token = int(wrong[branch, row].to(torch.uint8).argmax())
        value = float(logits[branch, row, token])
        faults.setdefault(row, f"step {step}, branch {branch}: the score of token {token} is {value}")
    for row in banned.all(-1).nonzero()[:, 0].tolist():
        faults.setdefault(row, f"step {step}, branch 0: the reference bans every token")
    if faults:
        logits = logits.index_fill(1, torch.tensor(sorted(faults), device=logits.device), 0.0)
    return logits, banned, faults
