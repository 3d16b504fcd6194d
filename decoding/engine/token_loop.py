"""The token loop: decodes many answers, of many strategies, over the rows of one session.

A `DecodingGroup` holds the hypotheses that one strategy and sampler decode in parallel. Each hypothesis has one row per
branch. All rows of the session go through one forward pass per step. Shapes are written with
`n` branches, `B` hypotheses and `V` tokens of the vocabulary.

    1. gather the logits of the branches of each group, [n, B, V]        step_batch.reference_batches
    2. mask and combine them, choose tokens, compute traces              TokenChoice, or beam_search.BeamChoice
    3. read all of this at once                                          token_choice.read_choices
    4. record tokens and traces, end answers                             TokenChoice.record, BeamChoice.record
    5. let every row read its token                                      _advance_session

Only 3. waits for the device. The tokens of 5. are gathered on the device:

    host      launch 1., 2.     wait   record 4., launch 5. and 1., 2.       wait
    device    | forward | 1., 2. |     | forward | 1., 2. |
                                 3.                       3.

Hypotheses that read the same prompt and chose the same tokens are in the same state, so they share a row. A row is
copied only when their tokens differ, and rows that no hypothesis needs are dropped. Below, `P` is the prompt, `N` the
prompt with a noised image, and letters are tokens:

    arm         branch       step 0    step 1    step 2
    greedy      reference    P         P a       P a b
    vcd         reference    P         P a       P a c     differs from greedy: the row was copied
                contrast     N         N a       N a c
    mask_only   reference    P         P a       P a c     shares the row of vcd
    rows of the session      2         2         3

A hypothesis may begin with the row of its reference alone. `decoding.engine.branch_scheduling` chooses when its
contrast branches are read:

    eager    from the start, as rows of the session
    lazy     from the first step that needs them, then as rows of the session
    gated    only at steps that need them, in a session of their own

The last two are drawn step by step in `decoding.engine.deferred_branches`.
"""

from collections.abc import Sequence

import torch

from decoding.engine.beam_search import BeamChoice
from decoding.engine.deferred_branches import DeferredBranches, OpenBranches
from decoding.engine.hypotheses import DecodingGroup, LoopWork
from decoding.engine.step_batch import LoopStep, StepBatch, reference_batches
from decoding.engine.token_choice import StepChoice, TokenChoice, decided_hypotheses, read_choices
from icl.memory.device_copies import StepIndices, copied_to_device
from icl.models.base import Session


def decode(
    session: Session,
    groups: Sequence[DecodingGroup],
    stop_tokens: frozenset[int],
    *,
    trace: bool = True,
    open_branches: OpenBranches | None = None,
) -> LoopWork:
    """Decodes every hypothesis to its end. The results are written into the hypotheses.

    Args:
        session: Prefilled rows. The loop uses them up.
        groups: Hypotheses whose `rows` are rows of the session.
        stop_tokens: Tokens that end an answer.
        trace: Whether to record `decoding.engine.trace_numbers.TRACE_FIELDS`.
        open_branches: Prefills prompts by name, for hypotheses that begin without the rows of their contrast branches.
    """
    work, indices = LoopWork(), StepIndices(session.logits.device)
    running = [group for group in groups if group.hypotheses]
    deferred = None if open_branches is None else DeferredBranches(open_branches, indices)
    number = 0
    while running:
        step, may_defer = LoopStep(number, indices, stop_tokens, trace), deferred is not None
        batches = [b for g in running for b in reference_batches(session, g, indices, may_defer=may_defer)]
        choices = _choose(batches, step)
        if deferred is not None and any(h.lacks_branch_rows for g in running for h in g.hypotheses):
            decided = {id(h) for h in decided_hypotheses(choices)}
            undecided = [(g, h) for g in running for h in g.hypotheses if id(h) not in decided]
            if undecided:
                session, batches = deferred.step_batches(session, running, undecided)
                choices += _choose(batches, step)
        for choice in choices:
            choice.record()
        for group in running:
            group.hypotheses = (
                [h for h in group.hypotheses if not h.finish] if group.search is None else group.search.hypotheses
            )
        running = [group for group in running if group.hypotheses]
        if running:
            _advance_session(session, running, choices, indices, work)
        indices.next_step()
        number += 1
    work.deferred_prefills = 0 if deferred is None else deferred.num_prefilled
    return work


def _choose(batches: Sequence[StepBatch], step: LoopStep) -> list[StepChoice]:
    """The choices of all batches, after one read."""
    choices: list[StepChoice] = [
        BeamChoice(batch, step) if batch.group.search else TokenChoice(batch, step) for batch in batches
    ]
    read_choices(choices)
    return choices


def _advance_session(
    session: Session,
    groups: Sequence[DecodingGroup],
    choices: Sequence[StepChoice],
    indices: StepIndices,
    work: LoopWork,
) -> None:
    """Feeds the last token of every hypothesis to its rows. Hypotheses with equal row and token share the new row.

    So they do only if an intervention would edit the token alike, which may depend on the reasoning that they can have.
    """
    hypotheses = [h for group in groups for h in group.hypotheses]
    source = {(row, h.tokens[-1], h.last_part): h for h in hypotheses for row in h.rows}
    row_tokens = sorted(source)
    new_row = {key: i for i, key in enumerate(row_tokens)}
    for hypothesis in hypotheses:
        hypothesis.rows = [new_row[row, hypothesis.tokens[-1], hypothesis.last_part] for row in hypothesis.rows]
        if len(hypothesis.rows) > 1:
            hypothesis.branch_tokens += 1
            hypothesis.branch_forwards += 1
        work.rows_without_sharing += len(hypothesis.rows)
    old_rows = [row for row, _, _ in row_tokens]
    if old_rows != list(range(len(session))):
        session.retain(torch.tensor(old_rows))
        session.trim()
    on_device = [choice.tokens for choice in choices if choice.tokens is not None]
    if len(on_device) == len(choices):
        chosen = (h for choice in choices for h in choice.batch.hypotheses)
        place = {id(h): i for i, h in enumerate(chosen)}  # of a deferred hypothesis: in the last choice
        tokens = torch.cat(on_device).index_select(0, indices.of([place[id(source[key])] for key in row_tokens]))
    else:
        tokens = copied_to_device([token for _, token, _ in row_tokens], torch.long, indices.device)
    if any(h.parts is not None for h in hypotheses):
        session.advance(tokens, [part for _, _, part in row_tokens])
    else:
        session.advance(tokens)
    work.forwards += 1
    work.rows += len(old_rows)
