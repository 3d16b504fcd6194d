"""One decoding step: from the logits of the branches to combined scores, for the token loop and for option scoring.

The mask is computed from branch 0, then the branches are combined, then masked tokens become -inf. A row with unusable
scores gets an error message and does not affect other rows.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch

from decoding import (
    InitialStepState,
    MaskingWrapper,
    PlausibleStrategy,
    RowSteps,
    StepState,
    has_reference_scores,
)
from decoding.formulas.distributions import is_plausible
from icl import PlanError, StepIndices, Strategy, Tensor

NEG_INF = -float("inf")


def combine_branches(
    strategy: Strategy, logits: Tensor, step: int, states: Sequence[StepState] = ()
) -> tuple[Tensor, dict[int, str]]:
    """Combined scores of a step.

    Tokens that the reference bans (-inf) stay banned. Any other -inf, NaN or +inf in the logits is a fault.

    Args:
        strategy: Combines the branches.
        logits: [n, B, V] float32.
        step: Number of the token, from 0.
        states: State of each row; initial states by default.

    Returns:
        Scores [B, V] with -inf for tokens that are ruled out, and row -> fault. Scores of a faulty row are zeros.

    Raises:
        PlanError: The strategy returned scores or a mask of another shape.
    """
    scores, is_faulty, best = combine_branches_on_device(strategy, logits, step, states)
    faulty = [row for row, is_one in enumerate(is_faulty.tolist()) if is_one]
    return scores, {row: fault_message(strategy, step, best, logits, row) for row in faulty}


# a strategy, the logits of its branches [n, B, V], the number of the token, and the state of each row
BranchLogits = tuple[Strategy, Tensor, "int | RowSteps", Sequence[StepState]]


def combine_branches_on_device(
    strategy: Strategy, logits: Tensor, step: "int | RowSteps", states: Sequence[StepState] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """As `combine_branches`, but the host does not wait for the device, and rows may stand at different steps.

    Returns:
        Scores [B, V], zeros in faulty rows; whether each row is faulty [B]; and for `fault_message` the best score of
        each row, [B].
    """
    return combine_together([(strategy, logits, step, states)])[0]


def combine_together(
    batches: Sequence[BranchLogits], indices: StepIndices | None = None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The results of `combine_branches_on_device` for several batches.

    What works on rows alone is one set of operations for all batches: on the rows of their branches, one batch after
    another, or on those of their references.

    Args:
        batches: The batches.
        indices: Numbers on the device. None: they are copied.
    """
    if not batches:
        return []
    rows, is_alone = joined([logits.flatten(0, 1) for _, logits, _, _ in batches]), len(batches) == 1
    indices = StepIndices(rows.device) if indices is None else indices
    strategies, sizes = [strategy for strategy, _, _, _ in batches], [logits.shape[1] for _, logits, _, _ in batches]
    counts = [len(logits) for _, logits, _, _ in batches]
    places, owners = _places(tuple(zip(counts, sizes, strict=True)))

    def spread(values: Tensor) -> Tensor:  # of the references, to the rows
        return joined([values] * counts[0]) if is_alone else indices.select(values, owners)

    references, highest = indices.select(rows, places), rows.amax(-1)  # NaN if there is one
    allowed = references != NEG_INF
    unreadable = highest * 0 + rows.where(spread(allowed), 0.0).amin(-1) * 0  # NaN unless all are finite, else 0
    if is_alone:
        unreadable = unreadable.view(*counts, -1).sum(0)
    else:
        unreadable = rows.new_zeros(len(places)).index_add_(0, indices.of(owners), unreadable)
    is_faulty, best = unreadable != 0, indices.select(highest, places)
    clean = rows.masked_fill(spread(is_faulty)[:, None], 0.0)
    parts = _split(clean, [count * size for count, size in zip(counts, sizes, strict=True)])
    branches = [part.view_as(logits) for part, (_, logits, _, _) in zip(parts, batches, strict=True)]
    scores = joined(
        [
            _checked(one, "combine", one.combine_stateful(own, cast(int, step), states or _initial(own)), own)
            for (one, _, step, states), own in zip(batches, branches, strict=True)
        ]
    )
    if not all(map(has_reference_scores, strategies)):
        betas = list(map(_beta, strategies))
        logs = [
            math.log(beta) if beta else NEG_INF for beta, size in zip(betas, sizes, strict=True) for _ in range(size)
        ]
        threshold = logs[0] if len(set(logs)) == 1 else indices.of(logs, rows.dtype)[:, None]
        allowed = allowed & is_plausible(references, best[:, None], threshold)
        masks = [
            one.mask(own[0]) if beta is None else None
            for one, own, beta in zip(strategies, branches, betas, strict=True)
        ]
        if any(mask is not None for mask in masks):
            rows_of_each = zip(strategies, masks, branches, _split(allowed, sizes), strict=True)
            allowed = allowed & joined(
                [
                    before if mask is None else _checked(one, "mask", mask, own)
                    for one, mask, own, before in rows_of_each
                ]
            )
        scores = scores.where(allowed, NEG_INF)
        best = scores.amax(-1)
        is_faulty = unreadable + best * 0 != 0
        scores = scores.masked_fill(is_faulty[:, None], 0.0)
    return list(zip(*(_split(one, sizes) for one in (scores, is_faulty, best)), strict=True))


@lru_cache(maxsize=64)
def _places(shapes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The row of each reference, and the number of the reference of each row, if batches of (n, B) rows are joined."""
    places, owners = list[int](), list[int]()
    for count, size in shapes:
        start, first = len(owners), len(places)
        owners += [*range(first, first + size)] * count
        places += range(start, start + size)
    return tuple(places), tuple(owners)


def _beta(strategy: Strategy) -> float | None:
    """`beta` of a strategy, or of a control of one, that leaves its mask to `PlausibleStrategy`. None for others."""
    while isinstance(strategy, MaskingWrapper) and type(strategy).mask is MaskingWrapper.mask:
        strategy = strategy.inner
    if isinstance(strategy, PlausibleStrategy) and type(strategy).mask is PlausibleStrategy.mask:
        return strategy.beta
    return None


def _initial(logits: Tensor) -> list[StepState]:
    return [InitialStepState() for _ in range(logits.shape[1])]


def _checked(strategy: Strategy, method: str, value: Tensor, logits: Tensor) -> Tensor:
    """What a method made of logits [n, B, V]. Raises PlanError if its shape is not [B, V]."""
    if value.shape != logits.shape[1:]:
        raise PlanError(
            f"{type(strategy).__name__}.{method} returned shape {list(value.shape)} for branches of "
            f"{list(logits.shape[1:])} (rows, vocabulary). All branches have one vocabulary, and so must the result."
        )
    return value


def joined(rows: Sequence[Tensor]) -> Tensor:
    """The rows of several tensors in one. A single tensor is not copied."""
    return torch.cat(list(rows)) if len(rows) > 1 else rows[0]


def _split(rows: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    return torch.split(rows, list(sizes)) if len(sizes) > 1 else [rows]


def fault_message(strategy: Strategy, step: int, best: Tensor, logits: Tensor, row: int) -> str:
    """What is wrong with a faulty row. Waits for the device.

    Args:
        strategy: Combined the branches.
        step: Number of the token, from 0.
        best: The best score of each row, [B].
        logits: Logits of the branches, [n, B, V].
        row: Number of the row.
    """
    logits = logits[:, row]
    is_banned = logits == NEG_INF
    is_wrong = ~logits.isfinite() & ~(is_banned[0] & is_banned)
    for branch, tokens in enumerate(is_wrong):
        if tokens.any():
            token = int(tokens.to(torch.uint8).argmax())
            return f"step {step}, branch {branch}: the score of token {token} is {float(logits[branch, token])}"
    if is_banned[0].all():
        return f"step {step}, branch 0: the reference bans every token"
    return unusable_message(float(best[row]), f"step {step}: the combined scores of {type(strategy).__name__}")


def zero_unusable_rows(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, V], zero in rows without a finite best score, and the best scores [B, 1]."""
    best = scores.amax(-1, keepdim=True)
    return scores.masked_fill(~(best.abs() < math.inf), 0.0), best


def unusable_message(best: float, subject: str) -> str:
    """The error message for a best score that is not finite, '' if it is finite. subject: begins the message."""
    if math.isfinite(best):
        return ""
    return f"{subject} {'rule out every token' if best == NEG_INF else 'are not finite'}"
