"""From the rows of a batch to one token for each group: the strategies, the sampler, and what is kept of a step.

Pure tensor work on the logits of a batch; where the rows come from is the processor's affair. A group is combined where
all its branches have a row and stand at one step; other rows stay as they are.
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
from decoding.lockstep.step_records import RECORD_STORE, put
from icl.errors import ICLError

if TYPE_CHECKING:
    from torch import Tensor

CHOSEN = 1e30
"""The score of the one token that may win; finite, so that nothing downstream turns into NaN."""


@dataclass(frozen=True)
class BatchRow:
    """A row of logits that belongs to a branch, `step` tokens into its output."""

    index: int
    branch: BranchMetadata
    step: int


RowGroup = list[BatchRow]


def complete_groups(rows: Sequence[BatchRow]) -> list[RowGroup]:
    """The groups, ordered by branch, whose branches are all here and at one step."""
    found: dict[str, dict[int, BatchRow]] = {}
    for row in rows:
        found.setdefault(row.branch.group, {})[row.branch.index] = row
    groups = []
    for members in found.values():
        group = [members[i] for i in sorted(members)]
        if len(group) == group[0].branch.count and len({row.step for row in group}) == 1:
            groups.append(group)
    return groups


def select_tokens(logits: "Tensor", groups: Sequence[RowGroup]) -> None:
    """Writes the chosen token, in place, into every row of every group. logits: [rows, V] float32."""
    alike: dict[tuple[str, int, int, bool], list[RowGroup]] = {}
    for group in groups:
        head = group[0]
        alike.setdefault((head.branch.arm, head.branch.count, head.step, head.branch.scores_options), []).append(group)
    for some in alike.values():
        _force_alike(logits, some)


def _force_alike(logits: "Tensor", groups: Sequence[RowGroup]) -> None:
    """Groups of one arm at one step, in one combination."""
    heads = [group[0] for group in groups]
    step = heads[0].step
    index = torch.tensor([[row.index for row in group] for group in groups], device=logits.device).T
    try:
        tokens, faults = _tokens(logits[index].float(), heads, step)
    except Exception as error:  # noqa: BLE001 - whatever a strategy raises: its groups end, the engine goes on
        _refuse(logits, index, heads, dict.fromkeys(range(len(heads)), _told(error)))
        return
    logits[index, tokens.expand_as(index)] = CHOSEN
    for i, head in enumerate(heads):
        if i not in faults:
            RECORD_STORE.clear_fault(head.branch.group, step)
    if faults:
        _refuse(logits, index, heads, faults)


def _tokens(own: "Tensor", heads: Sequence[BatchRow], step: int) -> "tuple[Tensor, dict[int, str]]":
    """One token for each group, and what is wrong by its place. own: [n, B, V] logits of their branches."""
    strategy, sampler = deserialize(heads[0].branch.arm)
    if heads[0].branch.scores_options:
        return _option_tokens(strategy, own, heads, step)
    states = _threads(strategy, heads)
    combined, faults = combine_branches(strategy, own, step, states)
    tokens = sampler.choose(combined, [head.branch.key for head in heads], step)
    _keep_trace(combined, own[0], tokens, heads, step)
    if top := max(head.branch.top for head in heads):
        seen = trace_branches(strategy, own, combined, tokens.tolist(), step=step, states=states, top=top)
        _keep_looks(seen, heads, step)
    return tokens, faults


def _told(error: Exception) -> str:
    """The sentence of ours, or what code of a strategy raised, and where."""
    if isinstance(error, ICLError):
        return str(error)
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _threads(strategy: Strategy, heads: Sequence[BatchRow]) -> list[StepState]:
    """Each group's own random stream, and what its strategy kept."""
    return [
        InitialStepState(
            head.branch.key, RECORD_STORE.of(head.branch.group).memory if strategy.traits.keeps_state else {}
        )
        for head in heads
    ]


def _option_tokens(
    strategy: Strategy, own: "Tensor", heads: Sequence[BatchRow], step: int
) -> "tuple[Tensor, dict[int, str]]":
    """The option's next token for each group, with its log-probability kept."""
    told, faults = combined_logprobs(strategy, own, step, _threads(strategy, heads))
    tokens = [head.branch.force[step] if step < len(head.branch.force) else 0 for head in heads]
    chosen = torch.tensor(tokens, device=own.device)
    values = told.gather(-1, chosen[:, None])[:, 0].tolist()
    for i, head in enumerate(heads):
        record = RECORD_STORE.of(head.branch.group)
        if head.branch.force:
            put(record.forced, step, values[i])
        if step == 0 and head.branch.first:
            record.first = told[i, torch.tensor(head.branch.first, device=own.device)].tolist()
    return chosen, faults


def _keep_trace(
    combined: "Tensor", reference: "Tensor", tokens: "Tensor", heads: Sequence[BatchRow], step: int
) -> None:
    if not any(head.branch.trace for head in heads):
        return
    numbers = trace_step(combined, reference, tokens)
    for i, head in enumerate(heads):
        if head.branch.trace:
            record = RECORD_STORE.of(head.branch.group)
            del record.trace[step:]
            record.trace.append(numbers[i])


def _keep_looks(seen: Sequence[StepTrace], heads: Sequence[BatchRow], step: int) -> None:
    for look, head in zip(seen, heads, strict=True):
        if head.branch.top:
            put(RECORD_STORE.of(head.branch.group).step_traces, step, look)


def _refuse(logits: "Tensor", index: "Tensor", heads: Sequence[BatchRow], faults: dict[int, str]) -> None:
    """The branches of a faulty group are made to differ, which ends it whoever watches; the ledger says why."""
    for i, reason in faults.items():
        RECORD_STORE.fault(heads[i].branch.group, heads[i].step, reason)
        for b, row in enumerate(index[:, i].tolist()):
            logits[row] = 0.0
            logits[row, min(b, 1)] = CHOSEN
