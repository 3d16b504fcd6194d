"""One decoding step: from the logits of the branches to combined scores, for the token loop and for option scoring.

The mask is computed from branch 0, then the branches are combined, then masked tokens become -inf. A row with unusable
scores gets an error message and does not affect other rows.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch

from decoding import InitialStepState, RowSteps, StepState, has_reference_scores
from icl import PlanError, Strategy, Tensor

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
    scores, _, numbers = combine_branches_on_device(strategy, logits, step, states)
    messages = {i: fault_message(strategy, step, row, logits, i) for i, row in enumerate(numbers.tolist())}
    return scores, {i: message for i, message in messages.items() if message}


def masked_scores(
    strategy: Strategy, logits: Tensor, step: int, states: Sequence[StepState], banned: Tensor | None
) -> Tensor:
    """Combined scores [B, V] of logits [n, B, V] without faults, -inf where the mask or `banned` [B, V] excludes.

    Raises:
        PlanError: The strategy returned scores or a mask of another shape.
    """
    scores = strategy.combine_stateful(logits, step, states or [InitialStepState() for _ in range(logits.shape[1])])
    mask = strategy.mask(logits[0])
    for method, value in (("combine", scores), ("mask", mask)):
        if value is not None and value.shape != logits.shape[1:]:
            raise PlanError(
                f"{type(strategy).__name__}.{method} returned shape {list(value.shape)} for branches of "
                f"{list(logits.shape[1:])} (rows, vocabulary). All branches have one vocabulary, and so must "
                "the result."
            )
    if mask is not None:
        scores = scores.where(mask, NEG_INF)
    if banned is not None:
        scores = scores.masked_fill(banned, NEG_INF)
    return scores


# a strategy, the logits of its branches [n, B, V], the number of the token, and the state of each row
BranchLogits = tuple[Strategy, Tensor, "int | RowSteps", Sequence[StepState]]


def combine_branches_on_device(
    strategy: Strategy, logits: Tensor, step: "int | RowSteps", states: Sequence[StepState] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """As `combine_branches`, but the host does not wait for the device, and rows may stand at different steps.

    Returns:
        Scores [B, V], zeros in faulty rows; whether each row is faulty [B]; and the numbers of `fault_message` for each
        row, [B, 1 + 2n] float32: the best score, the highest logit of each branch, and its lowest one of those that the
        reference does not ban.
    """
    return combine_together([(strategy, logits, step, states)])[0]


def combine_together(batches: Sequence[BranchLogits]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The results of `combine_branches_on_device` for several batches.

    What works on rows alone is one set of operations for all batches with equally many branches.
    """
    kinds: dict[tuple[int, bool], list[int]] = {}
    for place, (strategy, own, _, _) in enumerate(batches):
        kinds.setdefault((len(own), has_reference_scores(strategy)), []).append(place)
    results: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for (_, is_reference), places in kinds.items():
        sizes = [batches[place][1].shape[1] for place in places]
        logits = _joined([batches[place][1] for place in places], 1)
        banned = logits[0] == NEG_INF
        extremes = torch.cat([logits.amax(-1), logits.masked_fill(banned, 0.0).amin(-1)])  # NaN if there is one
        unreadable = (extremes * 0).sum(0)  # NaN unless all are finite, else 0
        is_faulty = unreadable != 0
        clean = logits.masked_fill(is_faulty[:, None], 0.0)
        if is_reference:
            scores, best = clean[0], extremes[0]
        else:
            masked = [
                masked_scores(strategy, own, cast(int, step), states, None)
                for (strategy, _, step, states), own in zip(
                    map(batches.__getitem__, places), torch.split(clean, sizes, 1), strict=True
                )
            ]
            scores = _joined(masked, 0).masked_fill(banned, NEG_INF)
            best = scores.amax(-1)
            is_faulty = unreadable + best * 0 != 0
            scores = scores.masked_fill(is_faulty[:, None], 0.0)
        whole = scores, is_faulty, torch.cat([best[None], extremes]).T
        results |= zip(places, zip(*(torch.split(one, sizes) for one in whole), strict=True), strict=True)
    return [results[place] for place in range(len(batches))]


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:  # a single tensor is not copied
    return torch.cat(list(tensors), dim) if len(tensors) > 1 else tensors[0]


def fault_message(strategy: Strategy, step: int, numbers: Sequence[float], logits: Tensor, row: int) -> str:
    """What is wrong with a row, '' if nothing is. Reads the logits only if something is.

    Args:
        strategy: Combined the branches.
        step: Number of the token, from 0.
        numbers: The row of the numbers of `combine_branches_on_device`, on the host.
        logits: Logits of the branches, [n, B, V].
        row: Number of the row.
    """
    if all(map(math.isfinite, numbers)):
        return ""
    best, count, logits = numbers[0], len(logits), logits[:, row]
    is_wrong = ~logits.isfinite() & ~((logits[0] == NEG_INF) & (logits == NEG_INF))
    for branch, (high, low) in enumerate(zip(numbers[1 : 1 + count], numbers[1 + count :], strict=True)):
        if not high < math.inf or not low > NEG_INF:
            token = int(is_wrong[branch].to(torch.uint8).argmax())
            return f"step {step}, branch {branch}: the score of token {token} is {float(logits[branch, token])}"
    if numbers[1] == NEG_INF:
        return f"step {step}, branch 0: the reference bans every token"
    return unusable_message(best, f"step {step}: the combined scores of {type(strategy).__name__}")


def zero_unusable_rows(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, V], zero in rows without a finite best score, and the best scores [B, 1]."""
    best = scores.amax(-1, keepdim=True)
    return scores.masked_fill(~(best.abs() < math.inf), 0.0), best


def unusable_message(best: float, subject: str) -> str:
    """The error message for a best score that is not finite, '' if it is finite. subject: begins the message."""
    if math.isfinite(best):
        return ""
    return f"{subject} {'rule out every token' if best == NEG_INF else 'are not finite'}"
