"""From the rows of a batch to one token for each group: applies strategy and sampler, and records the step.

This module works on the logits of a batch alone; the logits processor finds the rows. A group is combined if all its
branches have a row and are at the same step. Other rows are left unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

import torch

from decoding.base import InitialStepState, StepState, Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.engine.option_scoring import combined_logprobs
from decoding.engine.token_loop import trace_step
from decoding.engine.trace import StepTrace, trace_branches
from decoding.lockstep.request_metadata import BranchMetadata
from decoding.lockstep.serialization import deserialize
from decoding.lockstep.step_records import RECORD_STORE, set_step
from icl.errors import ICLError

if TYPE_CHECKING:
    from torch import Tensor

CHOSEN_SCORE = 1e30
"""The logit of the selected token. It is finite, so that no later operation gives NaN."""


@dataclass(frozen=True)
class BatchRow:
    """A row of logits that belongs to a branch, `step` tokens into its output."""

    index: int
    branch: BranchMetadata
    step: int


RowGroup = list[BatchRow]
"""The rows of one group, ordered by branch."""


def complete_groups(rows: Sequence[BatchRow]) -> list[RowGroup]:
    """The groups whose branches all have a row, at the same step."""
    rows_of: dict[str, dict[int, BatchRow]] = {}
    for row in rows:
        rows_of.setdefault(row.branch.group, {})[row.branch.index] = row
    groups = []
    for members in rows_of.values():
        group = [members[i] for i in sorted(members)]
        if len(group) == group[0].branch.count and len({row.step for row in group}) == 1:
            groups.append(group)
    return groups


def select_tokens(logits: "Tensor", groups: Sequence[RowGroup]) -> None:
    """Writes the selected token into every row of every group, in place. logits: [rows, V] float32."""
    same_arm: dict[tuple[str, int, int, bool], list[RowGroup]] = {}
    for group in groups:
        row = group[0]
        same_arm.setdefault((row.branch.arm, row.branch.count, row.step, row.branch.scores_options), []).append(group)
    for batch in same_arm.values():
        _select_together(logits, batch)


def _select_together(logits: "Tensor", groups: Sequence[RowGroup]) -> None:
    """Selects the tokens of groups with the same arm and step, in one combination."""
    references = [group[0] for group in groups]
    step = references[0].step
    index = torch.tensor([[row.index for row in group] for group in groups], device=logits.device).T
    try:
        tokens, faults = _tokens(logits[index].float(), references, step)
    except Exception as error:  # noqa: BLE001 - any error of a strategy ends its groups; the engine continues
        faults = dict.fromkeys(range(len(references)), _describe(error))
        _record_faults(logits, index, references, faults)
        return
    logits[index, tokens.expand_as(index)] = CHOSEN_SCORE
    for i, row in enumerate(references):
        if i not in faults:
            RECORD_STORE.clear_fault(row.branch.group, step)
    if faults:
        _record_faults(logits, index, references, faults)


def _tokens(branch_logits: "Tensor", references: Sequence[BatchRow], step: int) -> "tuple[Tensor, dict[int, str]]":
    """One token for each group [B], and the faults by index of the group. branch_logits: [n, B, V]."""
    strategy, sampler = deserialize(references[0].branch.arm)
    if references[0].branch.scores_options:
        return _option_tokens(strategy, branch_logits, references, step)
    states = _step_states(strategy, references)
    combined, faults = combine_branches(strategy, branch_logits, step, states)
    tokens = sampler.choose(combined, [row.branch.key for row in references], step)
    _record_trace(combined, branch_logits[0], tokens, references, step)
    if top := max(row.branch.top for row in references):
        traces = trace_branches(strategy, branch_logits, combined, tokens.tolist(), step=step, states=states, top=top)
        _record_step_traces(traces, references, step)
    return tokens, faults


def _describe(error: Exception) -> str:
    """The message of an ICLError. Of any other error its type, message and place in the strategy's code."""
    if isinstance(error, ICLError):
        return str(error)
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _step_states(strategy: Strategy, references: Sequence[BatchRow]) -> list[StepState]:
    """The random stream of each group, and the state of its strategy."""
    return [
        InitialStepState(
            row.branch.key, RECORD_STORE.of(row.branch.group).memory if strategy.traits.keeps_state else {}
        )
        for row in references
    ]


def _option_tokens(
    strategy: Strategy, branch_logits: "Tensor", references: Sequence[BatchRow], step: int
) -> "tuple[Tensor, dict[int, str]]":
    """The option's next token for each group. Its log-probability is recorded."""
    logprobs, faults = combined_logprobs(strategy, branch_logits, step, _step_states(strategy, references))
    tokens = [row.branch.force[step] if step < len(row.branch.force) else 0 for row in references]
    chosen = torch.tensor(tokens, device=branch_logits.device)
    values = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    for i, row in enumerate(references):
        record = RECORD_STORE.of(row.branch.group)
        if row.branch.force:
            set_step(record.forced, step, values[i])
        if step == 0 and row.branch.first:
            record.first = logprobs[i, torch.tensor(row.branch.first, device=branch_logits.device)].tolist()
    return chosen, faults


def _record_trace(
    combined: "Tensor", reference: "Tensor", tokens: "Tensor", references: Sequence[BatchRow], step: int
) -> None:
    if not any(row.branch.trace for row in references):
        return
    numbers = trace_step(combined, reference, tokens)
    for i, row in enumerate(references):
        if row.branch.trace:
            set_step(RECORD_STORE.of(row.branch.group).trace, step, numbers[i])


def _record_step_traces(traces: Sequence[StepTrace], references: Sequence[BatchRow], step: int) -> None:
    for trace, row in zip(traces, references, strict=True):
        if row.branch.top:
            set_step(RECORD_STORE.of(row.branch.group).step_traces, step, trace)


def _record_faults(logits: "Tensor", index: "Tensor", references: Sequence[BatchRow], faults: dict[int, str]) -> None:
    """Records the faults. Makes the branches of a faulty group sample different tokens, so that the scheduler ends it.

    The scheduler may run in another process, where it cannot read the records.
    """
    for i, reason in faults.items():
        RECORD_STORE.fault(references[i].branch.group, references[i].step, reason)
        for b, row in enumerate(index[:, i].tolist()):
            logits[row] = 0.0
            logits[row, min(b, 1)] = CHOSEN_SCORE
