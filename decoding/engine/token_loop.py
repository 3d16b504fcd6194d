"""The token loop: decodes many answers, of many strategies, over the rows of one session.

A `DecodingGroup` holds the hypotheses that one strategy and sampler decode in parallel. Each hypothesis has one row per
branch. All rows of the session go through one forward pass per step. Shapes are written with
`n` branches, `B` hypotheses and `V` tokens of the vocabulary.

    1. gather the logits of the branches of each group, [n, B, V]        hypotheses.reference_batches
    2. mask and combine them, choose tokens, compute traces              TokenChoice, or beam_search.BeamChoice
    3. read all of this at once                                          token_choice.choose
    4. record tokens and traces, end answers                             TokenChoice.record, BeamChoice.record
    5. let every row read its token                                      _advance_session

Only 3. waits for the device. The tokens of 5. are gathered on the device:

    host      launch 1., 2.     wait   record 4., launch 5. and 1., 2.       wait
    device    | forward | 1., 2. |     | forward | 1., 2. |
                                 3.                       3.

Hypotheses that read the same prompt and chose the same tokens are in the same state, so they share a row. A row is
copied only when their tokens differ. Rows that no hypothesis needs are dropped once they are an eighth of all rows,
because that copies the caches of all others. Below, `P` is the prompt, `N` the prompt with a noised image, and letters
are tokens:

    arm         branch       step 0    step 1    step 2
    greedy      reference    P         P a       P a b
    vcd         reference    P         P a       P a c     differs from greedy: the row was copied
                contrast     N         N a       N a c
    mask_only   reference    P         P a       P a c     shares the row of vcd
    rows of the session      2         2         3

A hypothesis may begin with the row of its reference alone. `decoding.engine.batch` chooses when its
contrast branches are read:

    eager    from the start, as rows of the session
    lazy     from the first step that needs them, then as rows of the session
    gated    only at steps that need them, in a session of their own

The last two are drawn step by step in `decoding.engine.token_loop`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from decoding.engine.hypotheses import (
    DecodingGroup,
    Hypothesis,
    LoopStep,
    LoopWork,
    StepBatch,
    branch_rows,
    gather_logits,
    reference_batches,
    with_early_exits,
)
from decoding.engine.token_choice import StepChoice, choose, decided_hypotheses
from icl import Session, StepIndices, Tensor, TokenPart, copied_to_device

# Contrast branches that are read only when a step needs them.
#
# If the plausibility mask leaves a single token, the contrast cannot change it. As long as every step of an answer is
# decided like this by its reference (`Strategy.reference_decides`), its contrast branches need not be prefilled.
# Branches are scheduled in one of three ways (`decoding.engine.batch`). `P` is the reference, `N` a contrast branch,
# letters are tokens, and `+[..]` tokens that a row reads in one forward pass. A row in parentheses is idle:
#
#     step                      0      1      2                    3          4
#     the reference decides     yes    yes    no                   yes        no
#     eager         P           P      P a    P a b                P a b c    P a b c d
#                   N           N      N a    N a b                N a b c    N a b c d
#     lazy          P           P      P a    P a b                P a b c    P a b c d
#                   N           -      -      N +[a b]             N a b c    N a b c d
#     gated         P           P      P a    P a b                P a b c    P a b c d
#                   N           -      -      N +[a b]             (N a b)    N a b +[c d]
#
# After step 2, a lazy branch is an ordinary row of the session. Gated branches stay in a session of their own
# (`gated_session`) and read on only when a step needs them.
#
# A prompt is prefilled once, however many hypotheses need it. Its row without answer tokens is kept until no waiting
# hypothesis needs it. Lazy hypotheses that chose the same tokens share a row. A model that shares prefixes reuses the
# KV cache of the demonstrations from the reference's row in the running session.
#
# Whether the reference decides is read together with the tokens that are chosen if it does
# (`decoding.engine.hypotheses.reference_batches`). Only steps that read further branches wait for the device twice.
#
#     DeferredBranches.step_batches    one step: reads the branches of undecided hypotheses, returns the logits of each
#     ._add_lazy_rows                  lazy: makes the missing rows and joins them to the session
#     ._read_gated_rows                gated: makes the missing rows in `gated_session`, lets old ones read on
#     ._make_rows                      prefills prompts, copies rows that others may need, reads the answers so far


OpenBranches = Callable[[Sequence[str], Session], Session]
"""Prefills prompts, given by name, and reuses the cached prompt prefix of the session."""


class TokenLoop:
    """Decodes hypotheses to their ends. Others can join while they run.

    Attributes:
        session: Prefilled rows. The loop uses them up.
        running: Groups with hypotheses that have not ended. The loop writes their results.
        number: Number of the next step.
    """

    def __init__(
        self,
        session: Session,
        groups: Sequence[DecodingGroup],
        stop_tokens: frozenset[int],
        *,
        trace: bool = True,
        open_branches: OpenBranches | None = None,
    ) -> None:
        """A loop at its first step.

        Args:
            session: Prefilled rows.
            groups: Hypotheses. Their `rows` are rows of the session.
            stop_tokens: Tokens that end an answer.
            trace: Whether to record `decoding.engine.trace.TRACE_FIELDS`.
            open_branches: Prefills prompts by name, for hypotheses that begin without the rows of their contrast
                branches.
        """
        self.session, self.stop_tokens, self.trace, self.number = session, stop_tokens, trace, 0
        self.running = [group for group in groups if group.hypotheses]
        self.indices = StepIndices(session.logits.device)
        self.deferred = None if open_branches is None else DeferredBranches(open_branches, self.indices)

    @property
    def num_running(self) -> int:
        """Hypotheses that have not ended."""
        return sum(len(group.hypotheses) for group in self.running)

    def join(self, session: Session, groups: Sequence[DecodingGroup]) -> None:
        """Adds hypotheses at their first step. They choose in groups of their own, so that a group has one step.

        Args:
            session: Their prefilled rows. The loop uses them up.
            groups: The hypotheses. Their `rows` are rows of `session`.
        """
        for group in groups:
            group.first_step = self.number
            for hypothesis in group.hypotheses:
                hypothesis.rows = [len(self.session) + row for row in hypothesis.rows]
        self.session.absorb(session)
        self.running += [group for group in groups if group.hypotheses]

    def run(self, least: int = 0) -> LoopWork:
        """Decodes until at most `least` hypotheses run. Returns the work since the last call."""
        work, deferred, indices = LoopWork(), self.deferred, self.indices
        while self.num_running > least:
            step, running = LoopStep(self.number, indices, self.stop_tokens, self.trace), self.running
            may_defer = deferred is not None
            batches = reference_batches(self.session, running, indices, may_defer=may_defer)
            choices = choose(batches, step)
            if deferred is not None and any(h.lacks_branch_rows for g in running for h in g.hypotheses):
                decided = {id(h) for h in decided_hypotheses(choices)}
                undecided = [(g, h) for g in running for h in g.hypotheses if id(h) not in decided]
                if undecided:
                    self.session, batches = deferred.step_batches(self.session, running, undecided)
                    choices += choose(batches, step)
            for choice in choices:
                choice.record()
            for group in running:
                group.hypotheses = (
                    [h for h in group.hypotheses if not h.finish] if group.search is None else group.search.hypotheses
                )
            self.running = [group for group in running if group.hypotheses]
            if self.running:
                keeps_ended = self.num_running > least  # rows that join take the places of those that have ended
                _advance_session(self.session, self.running, choices, indices, work, keeps_ended=keeps_ended)
            indices.next_step()
            self.number += 1
        if deferred is not None:
            work.deferred_prefills, deferred.num_prefilled = deferred.num_prefilled, 0
        return work


def _advance_session(
    session: Session,
    groups: Sequence[DecodingGroup],
    choices: Sequence[StepChoice],
    indices: StepIndices,
    work: LoopWork,
    *,
    keeps_ended: bool,
) -> None:
    """Feeds the last token of every hypothesis to its rows. Hypotheses with equal row and token share the new row.

    So they do only if an intervention would edit the token alike, which may depend on the reasoning that they can have.
    If `keeps_ended`, a few rows of ended hypotheses stay and read any token.
    """
    hypotheses = [h for group in groups for h in group.hypotheses]
    source = {(row, h.tokens[-1], h.last_part): h for h in hypotheses for row in h.rows}
    work.rows += len(source)
    if keeps_ended:
        source |= _ended_rows(session, source)
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


RowToken = tuple[int, int, TokenPart]
"""A row, the token that it reads, and the part of the output that the token leads on to."""


def _ended_rows(session: Session, source: Mapping[RowToken, Hypothesis]) -> dict[RowToken, Hypothesis]:
    """The rows that no hypothesis reads, with the token of another row, if they can stay in the session.

    They cannot if they are an eighth of all rows, or if the others are copied anyway. Nor can a row that is longer than
    all others, which could leave the model's context.
    """
    running = {row for row, _, _ in source}
    ended = sorted(set(range(len(session))) - running)
    if not 0 < 8 * len(ended) < len(session) or len(running) < len(source):
        return {}
    if max(session.lengths[row] for row in ended) > max(session.lengths[row] for row in running):
        return {}
    first = min(source)
    return {(row, *first[1:]): source[first] for row in ended}


RowState = tuple[str, tuple[int, ...], tuple[TokenPart, ...]]
"""A prompt, the tokens read after it, and the parts of the output that they lead on to. Equal states share a row."""


class DeferredBranches:
    """Branches of one token loop that its session does not hold yet.

    Attributes:
        open_branches: Prefills prompts.
        indices: Row numbers on the device.
        num_prefilled: Prompts prefilled so far.
        session: The running session. Its cached prompt prefix is reused.
        prefilled: Prompt -> session and row in which it is prefilled, without tokens of an answer.
        gated_session: Rows of gated branches, or None.
        gated_rows: id of a gated hypothesis -> its rows in `gated_session`.
    """

    def __init__(self, open_branches: OpenBranches, indices: StepIndices) -> None:
        self.open_branches, self.indices, self.num_prefilled = open_branches, indices, 0
        self.session: Session | None = None
        self.prefilled: dict[str, tuple[Session, int]] = {}
        self.gated_session: Session | None = None
        self.gated_rows: dict[int, list[int]] = {}

    def step_batches(
        self,
        session: Session,
        groups: Sequence["DecodingGroup"],
        undecided: Sequence[tuple["DecodingGroup", Hypothesis]],
    ) -> tuple[Session, list[StepBatch]]:
        """Prefills the branches that this step needs.

        Args:
            session: The running session.
            groups: All running groups.
            undecided: Hypotheses for which the reference does not decide this step.

        Returns:
            The session with added rows, and the batches of the undecided hypotheses.
        """
        self.session = session
        session = self._add_lazy_rows(session, groups, [h for group, h in undecided if not group.is_gated])
        self._read_gated_rows(groups, [h for group, h in undecided if group.is_gated])
        batches = []
        for group in groups:
            own = [h for owner, h in undecided if owner is group]
            if own:
                batch = StepBatch(group, own, self._branch_logits(session, group, own))
                batches.append(with_early_exits(session, batch, self.indices))
        return session, batches

    def _branch_logits(self, session: Session, group: "DecodingGroup", hypotheses: Sequence[Hypothesis]) -> Tensor:
        """Logits of all branches, [n, B, V]."""
        if not group.is_gated:
            (logits,) = gather_logits(session.logits, [branch_rows(hypotheses)], self.indices)
            return logits
        assert self.gated_session is not None
        (reference,) = gather_logits(session.logits, [[[h.rows[0] for h in hypotheses]]], self.indices)
        rows = [[self.gated_rows[id(h)][b] for h in hypotheses] for b in range(len(hypotheses[0].prompts) - 1)]
        return torch.cat([reference, *gather_logits(self.gated_session.logits, [rows], self.indices)])

    def _add_lazy_rows(
        self, session: Session, groups: Sequence["DecodingGroup"], hypotheses: Sequence[Hypothesis]
    ) -> Session:
        """Adds the missing rows of lazy hypotheses to the session. Rows in the same state are shared, not added."""
        if not hypotheses:
            return session
        row_of: dict[RowState, int] = {
            _state(prompt, h): row
            for group in groups
            for h in group.hypotheses
            for prompt, row in zip(h.prompts, h.rows, strict=False)
        }
        new = dict.fromkeys(state for h in hypotheses for state in _contrast_states(h) if state not in row_of)
        if new:
            part, part_row_of = self._make_rows(list(new), _waiting_prompts(groups, hypotheses))
            row_of |= {state: len(session) + row for state, row in part_row_of.items()}
            session.absorb(part)
        for hypothesis in hypotheses:
            hypothesis.rows = [hypothesis.rows[0], *(row_of[state] for state in _contrast_states(hypothesis))]
            _mark_read(hypothesis)
        return session

    def _read_gated_rows(self, groups: Sequence["DecodingGroup"], hypotheses: Sequence[Hypothesis]) -> None:
        """Makes the contrast rows of gated hypotheses, and lets existing ones read all tokens chosen so far."""
        if not hypotheses:
            return
        running = {id(h) for group in groups if group.is_gated for h in group.hypotheses}
        behind = [h for h in hypotheses if id(h) in self.gated_rows and h.branch_tokens < len(h.tokens)]
        chunks = [h.tokens[h.branch_tokens :] for h in behind for _ in self.gated_rows[id(h)]]
        parts = [tuple(h.parts or ())[h.branch_tokens :] for h in behind for _ in self.gated_rows[id(h)]]
        reading = [id(h) for h in behind]
        idle = [key for key in self.gated_rows if key in running and key not in reading]
        self._update_gated_session(idle, reading, chunks, parts)
        for hypothesis in behind:
            _mark_read(hypothesis)
        new = [h for h in hypotheses if id(h) not in self.gated_rows]
        if new:
            states = dict.fromkeys(state for h in new for state in _contrast_states(h))
            part, row_of = self._make_rows(list(states), _waiting_prompts(groups, new))
            rows = [row_of[state] for h in new for state in _contrast_states(h)]
            part = part if rows == list(range(len(part))) else part.take(torch.tensor(rows))
            start = 0 if self.gated_session is None else len(self.gated_session)
            if self.gated_session is None:
                self.gated_session = part
            else:
                self.gated_session.absorb(part)
            for hypothesis in new:
                count = len(hypothesis.prompts) - 1
                self.gated_rows[id(hypothesis)] = list(range(start, start + count))
                start += count
                _mark_read(hypothesis)

    def _update_gated_session(
        self,
        idle: Sequence[int],
        reading: Sequence[int],
        chunks: Sequence[Sequence[int]],
        output_parts: Sequence[Sequence[TokenPart]],
    ) -> None:
        """Keeps idle rows of `gated_session`, lets reading rows read, drops the rest, and renumbers all.

        Args:
            idle: Keys of `gated_rows`. Their rows stay as they are.
            reading: Keys of `gated_rows`. Their rows read more tokens.
            chunks: Tokens that each row of `reading` reads.
            output_parts: The parts of the output that they lead on to, where that matters.
        """
        if self.gated_session is None:
            return
        parts: list[Session] = []
        for keys in (idle, reading):
            rows = [row for key in keys for row in self.gated_rows[key]]
            if not rows:
                continue
            is_whole = rows == list(range(len(self.gated_session)))
            part = self.gated_session if is_whole else self.gated_session.take(torch.tensor(rows))
            if not is_whole:
                part.trim()
            if keys is reading:
                _extend(part, chunks, output_parts)
            parts.append(part)
        sizes = {key: len(self.gated_rows[key]) for key in (*idle, *reading)}
        self.gated_rows, start = {}, 0
        for key, size in sizes.items():
            self.gated_rows[key] = list(range(start, start + size))
            start += size
        self.gated_session = parts[0] if parts else None
        if self.gated_session is not None and len(parts) > 1:
            self.gated_session.absorb(parts[1])

    def _make_rows(self, states: Sequence[RowState], waiting_prompts: set[str]) -> tuple[Session, dict[RowState, int]]:
        """New rows in these states, and the row of each.

        Args:
            states: Distinct states.
            waiting_prompts: Prompts that other hypotheses may need later; they stay in `prefilled`.
        """
        new = [prompt for prompt in dict.fromkeys(prompt for prompt, _, _ in states) if prompt not in self.prefilled]
        if new:
            assert self.session is not None
            opened = self.open_branches(new, self.session)
            self.num_prefilled += len(new)
            self.prefilled |= {prompt: (opened, row) for row, prompt in enumerate(new)}
        sources: dict[int, Session] = {}
        states_of: dict[int, list[RowState]] = {}
        for state in states:
            source = self.prefilled[state[0]][0]
            sources[id(source)] = source
            states_of.setdefault(id(source), []).append(state)
        part: Session | None = None
        row_of: dict[RowState, int] = {}
        for key, source_states in states_of.items():
            rows = [self.prefilled[prompt][1] for prompt, _, _ in source_states]
            is_last_use = not waiting_prompts & {prompt for prompt, _, _ in source_states}
            is_whole = rows == list(range(len(sources[key])))
            taken = sources[key] if is_whole and is_last_use else sources[key].take(torch.tensor(rows))
            if part is None:
                part = taken
            else:
                part.absorb(taken)
            row_of |= {state: len(row_of) + i for i, state in enumerate(source_states)}
        self.prefilled = {prompt: place for prompt, place in self.prefilled.items() if prompt in waiting_prompts}
        assert part is not None
        if any(tokens for _, tokens, _ in row_of):
            _extend(part, [list(tokens) for _, tokens, _ in row_of], [parts for _, _, parts in row_of])
        return part, row_of


def _contrast_states(hypothesis: Hypothesis) -> list[RowState]:
    """States of the contrast branches once they have read the answer so far."""
    return [_state(prompt, hypothesis) for prompt in hypothesis.prompts[1:]]


def _state(prompt: str, hypothesis: Hypothesis) -> RowState:
    """The state of a branch that has read the answer so far."""
    return prompt, tuple(hypothesis.tokens), tuple(hypothesis.parts or ())


def _extend(session: Session, chunks: Sequence[Sequence[int]], parts: Sequence[Sequence[TokenPart]]) -> None:
    """Lets rows read chunks, with the parts of the output that their tokens lead on to if these matter for a row."""
    if any(parts):
        session.extend(chunks, parts)
    else:
        session.extend(chunks)


def _waiting_prompts(groups: Iterable["DecodingGroup"], excluded: Sequence[Hypothesis]) -> set[str]:
    """Prompts that hypotheses without prefilled branches may need later."""
    excluded_ids = {id(h) for h in excluded}
    return {
        prompt
        for group in groups
        for h in group.hypotheses
        if h.lacks_branch_rows and not h.is_prefilled and id(h) not in excluded_ids
        for prompt in h.prompts[1:]
    }


def _mark_read(hypothesis: Hypothesis) -> None:
    """Records that the deferred branches have read all tokens, the new ones in one forward pass."""
    hypothesis.is_prefilled = True
    hypothesis.branch_forwards += hypothesis.branch_tokens < len(hypothesis.tokens)
    hypothesis.branch_tokens = len(hypothesis.tokens)
