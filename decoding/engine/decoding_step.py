"""One decoding step: from the logits of the branches to combined scores, for the token loop and for option scoring.

The mask is computed from branch 0, then the branches are combined, then masked tokens become -inf. A row with unusable
scores gets an error message and does not affect other rows.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from decoding.base import InitialStepState, StepState, Strategy
from decoding.formulas.row_steps import RowSteps
from icl.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor

NEG_INF = -float("inf")
NUM_FAULT_VALUES = 6
"""Numbers that `fault_message` reads."""


def combine_branches(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState] = ()
) -> "tuple[Tensor, dict[int, str]]":
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
    messages = {i: fault_message(strategy, step, row, logits.shape[-1]) for i, row in enumerate(numbers.tolist())}
    return scores, {i: message for i, message in messages.items() if message}


def masked_scores(
    strategy: Strategy, logits: "Tensor", step: int, states: Sequence[StepState], banned: "Tensor | None"
) -> "Tensor":
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
        scores = scores.masked_fill(~mask, NEG_INF)
    if banned is not None:
        scores = scores.masked_fill(banned, NEG_INF)
    return scores


def combine_branches_on_device(
    strategy: Strategy, logits: "Tensor", step: "int | RowSteps", states: Sequence[StepState] = ()
) -> "tuple[Tensor, Tensor, Tensor]":
    """As `combine_branches`, but the host does not wait for the device, and rows may stand at different steps.

    Returns:
        Scores [B, V], zeros in faulty rows; whether each row is faulty [B]; and the numbers of `fault_message` for each
        row, [B, NUM_FAULT_VALUES] float64.
    """
    banned = logits[0] == NEG_INF
    usable = (logits.abs() < math.inf) | (banned & (logits == NEG_INF))
    usable = usable.transpose(0, 1).flatten(1)  # [B, n * V]
    place = usable.to(torch.uint8).argmin(-1)  # of the first unusable logit
    wrong, all_banned = ~usable.all(-1), banned.all(-1)
    unreadable = wrong | all_banned
    clean = logits.masked_fill(unreadable[None, :, None], 0.0)
    scores = masked_scores(strategy, clean, cast(int, step), states, banned)
    best = scores.amax(-1)
    is_faulty = unreadable | ~(best.abs() < math.inf)
    vocabulary = logits.shape[-1]
    value = logits[place // vocabulary, torch.arange(len(place), device=place.device), place % vocabulary]
    numbers = torch.stack([place.double(), is_faulty, wrong, all_banned, value, best], 1)
    return scores.masked_fill(is_faulty[:, None], 0.0), is_faulty, numbers


def fault_message(strategy: Strategy, step: int, numbers: Sequence[float], vocabulary: int) -> str:
    """The message of a row of the numbers of `combine_branches_on_device`, '' without a fault."""
    place, is_faulty, wrong, all_banned, value, best = numbers
    if not is_faulty:
        return ""
    branch, token = divmod(int(place), vocabulary)
    if wrong:
        return f"step {step}, branch {branch}: the score of token {token} is {value}"
    if all_banned:
        return f"step {step}, branch 0: the reference bans every token"
    return unusable_message(best, f"step {step}: the combined scores of {type(strategy).__name__}")


def zero_unusable_rows(scores: "Tensor") -> "tuple[Tensor, Tensor]":
    """Scores [B, V] with zeros in rows whose best score is not finite, and the best scores [B, 1]."""
    best = scores.amax(-1, keepdim=True)
    return scores.masked_fill(~(best.abs() < math.inf), 0.0), best


def unusable_message(best: float, subject: str) -> str:
    """What is wrong with scores whose best is this one, '' if it is finite. subject: begins the message."""
    if math.isfinite(best):
        return ""
    return f"{subject} {'rule out every token' if best == NEG_INF else 'are not finite'}"
