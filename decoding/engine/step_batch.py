"""Hypotheses that choose their tokens together at a step, with the logits of their branches.

If the strategy of a group acts in one part of the output, hypotheses outside that part choose in a batch of their own,
from the logits of branch 0. So the strategy never sees the steps outside. It needs no branches there.

An index on the device gathers the rows of a session. It is copied only if the rows have changed since the previous step
(`icl.memory.StepIndices`). Adjacent rows need no index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from decoding.engine.hypotheses import DecodingGroup, Hypothesis
from icl import Session, StepIndices, Strategy, Tensor


@dataclass(frozen=True, eq=False)
class LoopStep:
    """One step of the token loop.

    Attributes:
        number: Number of the step, from 0.
        indices: Row numbers on the device.
        stop_tokens: Tokens that end an answer.
        trace: Whether to record `decoding.engine.trace.TRACE_FIELDS`.
    """

    number: int
    indices: StepIndices
    stop_tokens: frozenset[int] = frozenset()
    trace: bool = False

    def of(self, group: DecodingGroup) -> int:
        """Number of the token that the hypotheses of a group choose, from 0."""
        return self.number - group.first_step


REFERENCE = Strategy()
"""Scores as branch 0 does."""


@dataclass(frozen=True, eq=False)
class StepBatch:
    """Some hypotheses of a group at one step.

    Attributes:
        group: Their group.
        hypotheses: B hypotheses.
        logits: Logits of their branches, [n, B, V] float32.
        is_decided: Whether the reference decides the step, [B] bool. The others choose in another batch. None: no other
            batch.
        is_outside: Whether they are outside the part of the output in which the strategy of the group acts.
    """

    group: DecodingGroup
    hypotheses: Sequence[Hypothesis]
    logits: Tensor
    is_decided: Tensor | None = None
    is_outside: bool = False

    @property
    def strategy(self) -> Strategy:
        """Combines the branches."""
        return REFERENCE if self.is_outside else self.group.strategy


def reference_batches(
    session: Session, group: DecodingGroup, indices: StepIndices, *, may_defer: bool
) -> list[StepBatch]:
    """The batches of a group that the session's own rows allow.

    Args:
        session: The running session.
        group: The group.
        indices: Row numbers on the device.
        may_defer: Whether hypotheses can lack the rows of their contrast branches. The reference then stands in for
            them, and `is_decided` says where this is right.
    """
    batches = []
    for is_outside, hypotheses in _by_part(group):
        deferred: list[Hypothesis] = []
        in_session = hypotheses
        if may_defer and len(hypotheses[0].prompts) > 1:  # one branch cannot be deferred
            deferred = [h for h in hypotheses if h.lacks_branch_rows]
            in_session = [h for h in hypotheses if not h.lacks_branch_rows]
        if in_session:
            logits = gather_logits(session.logits, branch_rows(in_session), indices)
            batches.append(StepBatch(group, in_session, logits, is_outside=is_outside))
        if deferred:
            reference = gather_logits(session.logits, [[h.rows[0] for h in deferred]], indices)
            is_decided = None if is_outside else group.strategy.reference_decides(reference[0])
            if is_outside or is_decided is not None:
                logits = reference.expand(len(deferred[0].prompts), -1, -1)
                batches.append(StepBatch(group, deferred, logits, is_decided, is_outside))
    return [with_early_exits(session, batch, indices) for batch in batches]


def _by_part(group: DecodingGroup) -> list[tuple[bool, list[Hypothesis]]]:
    """The hypotheses inside and outside the part in which the strategy acts: whether outside, and at least one each."""
    if group.acts_in == "both":
        return [(False, list(group.hypotheses))]
    parts: dict[bool, list[Hypothesis]] = {}
    for hypothesis in group.hypotheses:
        parts.setdefault(hypothesis.next_part != group.acts_in, []).append(hypothesis)
    return list(parts.items())


def with_early_exits(session: Session, batch: StepBatch, indices: StepIndices) -> StepBatch:
    """The batch, with the logits of the reference's early layers at the end if its strategy reads them."""
    if not batch.group.strategy.traits.reads_early_exits:
        return batch
    exits = gather_early_exits(session, indices.of([h.rows[0] for h in batch.hypotheses]))
    return replace(batch, logits=torch.cat([batch.logits, exits]))


def branch_rows(hypotheses: Sequence[Hypothesis]) -> list[list[int]]:
    """[n][B] rows of hypotheses with equal numbers of branches."""
    return [[h.rows[b] for h in hypotheses] for b in range(len(hypotheses[0].rows))]


def gather_logits(logits: Tensor, rows: list[list[int]], indices: StepIndices) -> Tensor:
    """Logits of rows: [R, V] and [n][B] row numbers -> [n, B, V] float32. Adjacent rows are not copied."""
    flat = [row for branch in rows for row in branch]
    if flat == list(range(flat[0], flat[0] + len(flat))):
        selected = logits[flat[0] : flat[0] + len(flat)]
    else:
        selected = logits.index_select(0, indices.of(flat))
    return selected.float().view(len(rows), len(rows[0]), -1)


def gather_early_exits(session: Session, rows: Tensor) -> Tensor:
    """[early layers, rows, V] float32 logits of rows [R] int64, from a session that was opened with early exits."""
    selected: Tensor = session.early_exit_logits.index_select(1, rows)
    return selected.float()
