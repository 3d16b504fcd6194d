"""From the rows of a batch to one token for each group: applies strategy and sampler, and records the step.

This module works on the logits of a batch alone; the logits processor finds the rows. A group is combined if all its
branches have a row and are at the same step. Other rows are left unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import cast

import torch
from torch import Tensor

from decoding import InitialStepState, RowSteps
from decoding.engine import NEG_INF, combine_branches_on_device, fault_message, floor_masked
from decoding.engine.trace import TRACE_FIELDS, StepTrace, step_traces, trace_numbers, trace_tensors
from decoding.lockstep import RECORD_STORE, BranchMetadata, TokenizerLoader, deserialize, set_step
from icl import ICLError, copied_to_device, widened

CHOSEN_SCORE = 1e30
"""The logit of the selected token. It is finite, so that no later operation gives NaN."""

LOGPROB = TRACE_FIELDS.index("logprob")


@dataclass(frozen=True)
class BatchRow:
    """A row of logits that belongs to a branch, `step` tokens into its output."""

    index: int
    branch: BranchMetadata
    step: int


RowGroup = list[BatchRow]
"""The rows of one group, ordered by branch."""


def complete_groups(rows: Sequence[BatchRow]) -> list[RowGroup]:
    """The groups in which all branches have a row, at the same step."""
    rows_of: dict[str, dict[int, BatchRow]] = {}
    for row in rows:
        rows_of.setdefault(row.branch.group, {})[row.branch.index] = row
    groups = []
    for members in rows_of.values():
        group = [members[i] for i in sorted(members)]
        if len(group) == group[0].branch.count and len({row.step for row in group}) == 1:
            groups.append(group)
    return groups


def select_tokens(logits: "Tensor", groups: Sequence[RowGroup], load_tokenizer: TokenizerLoader | None = None) -> None:
    """Writes the selected token into every row of every group, in place.

    The groups of an arm are combined at once, whatever their steps, and the host does not wait for the device. A
    strategy that computes with the number of the step is combined step by step. A thinking budget needs the tokens of
    the step before, which precede the forward pass of this step on the device.

    Args:
        logits: [rows, V] float32.
        groups: Groups of rows.
        load_tokenizer: Returns the tokenizer of the model, for thinking budgets.
    """
    RECORD_STORE.settle(wait=any(group[0].branch.thinking for group in groups))
    same_arm: dict[tuple[str, int, bool], list[RowGroup]] = {}
    for group in groups:
        branch = group[0].branch
        if group[0].step == 0:
            RECORD_STORE.taken.pop(branch.group, None)  # another group with a name that was used before
        same_arm.setdefault((branch.arm, branch.count, branch.scores_options), []).append(group)
    for (arm, *_), batch in same_arm.items():
        if arm in _COMBINED_BY_STEP or not _select_together(logits, batch, load_tokenizer):
            for step in sorted({group[0].step for group in batch}):
                _select_together(logits, [group for group in batch if group[0].step == step], load_tokenizer)


_COMBINED_BY_STEP: set[str] = set()
"""Arms with strategies that compute with the step number."""


def _select_together(
    logits: "Tensor", groups: Sequence[RowGroup], load_tokenizer: TokenizerLoader | None = None
) -> bool:
    """Selects the tokens of groups with the same arm in one combination. False if it must be done step by step."""
    references = [group[0] for group in groups]
    steps = [row.step for row in references]
    is_mixed = len(set(steps)) > 1
    places = copied_to_device([[row.index for row in group] for group in groups], torch.long, logits.device).T
    distinct_tokens = _distinct_tokens(len(places), logits.device)
    branch_logits = logits[places]
    try:
        step = RowSteps(steps) if is_mixed else steps[0]
        tokens, is_faulty = _tokens(branch_logits.float(), references, step, load_tokenizer)
    except Exception as error:  # noqa: BLE001 - any error of a strategy ends its groups; the engine continues
        if is_mixed:
            _COMBINED_BY_STEP.add(references[0].branch.arm)
            return False
        for row in references:
            RECORD_STORE.fault(row.branch.group, row.step, _describe(error))
        logits[places] = 0.0
        logits[places, distinct_tokens.expand_as(places)] = CHOSEN_SCORE
        return True
    # The branches of a faulty group sample different tokens, so that the scheduler ends it. It may run in another
    # process, where it cannot read the records.
    logits[places] = branch_logits.masked_fill(is_faulty[None, :, None], 0.0)
    logits[places, torch.where(is_faulty, distinct_tokens, tokens)] = CHOSEN_SCORE
    return True


@lru_cache
def _distinct_tokens(branches: int, device: "torch.device") -> "Tensor":
    """Another token for the first branch than for the others, [n, 1]."""
    return torch.tensor([[min(branch, 1)] for branch in range(branches)], device=device)


def _tokens(
    branch_logits: "Tensor",
    references: Sequence[BatchRow],
    step: int | RowSteps,
    load_tokenizer: TokenizerLoader | None,
) -> "tuple[Tensor, Tensor]":
    """One token for each group [B], and whether its scores are faulty [B]. branch_logits: [n, B, V]."""
    strategy, sampler = deserialize(references[0].branch.arm)
    states = [
        InitialStepState(
            row.branch.key,
            RECORD_STORE.of(row.branch.group).memory if strategy.traits.keeps_state else {},
            row.branch.note,
        )
        for row in references
    ]
    combined, is_faulty, best = combine_branches_on_device(strategy, branch_logits, step, states)
    values = [is_faulty[:, None]]
    is_limited = load_tokenizer is not None and any(row.branch.thinking for row in references)
    per_branch: list[Tensor] = []
    if references[0].branch.scores_options:
        tokens, logprobs = _option_logprobs(combined, branch_logits[0], references)
        values.append(logprobs)
    else:
        tokens = sampler.choose(combined, [row.branch.key for row in references], cast(int, step))
        is_forced: Tensor | None = None
        if is_limited and load_tokenizer is not None:
            tokens, is_forced = _limited(tokens, references, load_tokenizer)
        if any(row.branch.trace for row in references):
            traced = trace_numbers(combined, branch_logits[0], tokens)
            if is_forced is not None:
                traced[:, LOGPROB].masked_fill_(is_forced, 0.0)
            values.append(traced)
        if top := max(row.branch.top for row in references):
            clean = branch_logits.masked_fill(is_faulty[None, :, None], 0.0)
            per_branch = trace_tensors(strategy, clean, combined, step=cast(int, step), states=states, top=top)
    num_branches = len(branch_logits)
    end = sum(value.shape[1] for value in values)

    def write(rows: list[list[float]]) -> None:
        for i, (row, numbers) in enumerate(zip(references, rows, strict=True)):
            message = fault_message(strategy, row.step, best, branch_logits, i) if numbers[0] else ""
            _record(row, message, numbers[1:end])
            if is_limited and row.branch.thinking is not None:
                RECORD_STORE.of(row.branch.group).output.read(row.step, int(numbers[end]), row.branch.thinking)
        if per_branch:
            chosen = [int(numbers[end]) for numbers in rows]
            columns = _columns([row[end + 1 :] for row in rows], [value.shape[1] for value in per_branch])
            _record_step_traces(step_traces(strategy, num_branches, columns, chosen), references)

    if per_branch or is_limited:
        values += [tokens[:, None], *per_branch]
    RECORD_STORE.defer(torch.cat(values, 1), write)
    return tokens, is_faulty


def _columns(rows: Sequence[list[float]], widths: Sequence[int]) -> list[list[list[float]]]:
    """The rows of each of several tensors that were joined: [B][sum of widths] -> [len(widths)][B][width]."""
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return [[row[start : start + width] for row in rows] for start, width in zip(starts, widths, strict=True)]


def _limited(
    tokens: "Tensor", references: Sequence[BatchRow], load_tokenizer: TokenizerLoader
) -> "tuple[Tensor, Tensor]":
    """The tokens that thinking budgets allow [B], and whether each is forced [B]."""
    rows = []
    for row in references:
        output, limits = RECORD_STORE.of(row.branch.group).output, row.branch.thinking
        demanded = None if limits is None else output.demand(row.step, limits, load_tokenizer)
        rows.append([0, 0, 0] if demanded is None else [demanded[0], 1, demanded[1]])
    demanded_tokens, is_demanded, is_forced = copied_to_device(rows, torch.long, tokens.device).unbind(1)
    return torch.where(is_demanded > 0, demanded_tokens, tokens), is_forced > 0


def _record(row: BatchRow, fault: str, numbers: list[float]) -> None:
    """Records a step of a group: its fault, and its trace or the log-probabilities of an option's tokens."""
    branch = row.branch
    if fault:
        RECORD_STORE.fault(branch.group, row.step, fault)
    else:
        RECORD_STORE.clear_fault(branch.group, row.step)
    record = RECORD_STORE.of(branch.group)
    if branch.force:
        set_step(record.forced, row.step, numbers[0])
    if branch.first and row.step == 0:
        record.first = numbers[1 : 1 + len(branch.first)]
    if branch.trace and not branch.scores_options:
        set_step(record.trace, row.step, numbers)


def _describe(error: Exception) -> str:
    """The message of an ICLError. Of any other error its type, message and place in the strategy's code."""
    if isinstance(error, ICLError):
        return str(error)
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _option_logprobs(
    combined: "Tensor", reference: "Tensor", references: Sequence[BatchRow]
) -> "tuple[Tensor, Tensor]":
    """The option's next token for each group [B], and log-probabilities [B, 1 + m] of it and of all first tokens."""
    logprobs = floor_masked(combined.log_softmax(-1), reference, combined == NEG_INF)
    tokens = [row.branch.force[row.step] if row.step < len(row.branch.force) else 0 for row in references]
    length = max(len(row.branch.first) for row in references)
    first = [[*row.branch.first, *[0] * (length - len(row.branch.first))] for row in references]
    token_ids = [[token, *ids] for token, ids in zip(tokens, first, strict=True)]
    ids = copied_to_device(token_ids, torch.long, logprobs.device)
    return ids[:, 0], widened(logprobs.gather(-1, ids))


def _record_step_traces(traces: Sequence[StepTrace], references: Sequence[BatchRow]) -> None:
    for trace, row in zip(traces, references, strict=True):
        if row.branch.top:
            set_step(RECORD_STORE.of(row.branch.group).step_traces, row.step, trace.with_top(row.branch.top))
