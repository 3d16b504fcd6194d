"""Contrast branches that are read only when a step needs them.

If the plausibility mask leaves a single token, the contrast cannot change it. As long as every step of an answer is
decided like this by its reference (`Strategy.reference_decides`), its contrast branches need not be prefilled. Branches
are scheduled in one of three ways (`decoding.engine.branch_scheduling`). `P` is the reference, `N` a contrast branch,
letters are tokens, and `+[..]` tokens that a row reads in one forward pass. A row in parentheses is idle:

    step                      0      1      2                    3          4
    the reference decides     yes    yes    no                   yes        no
    eager         P           P      P a    P a b                P a b c    P a b c d
                  N           N      N a    N a b                N a b c    N a b c d
    lazy          P           P      P a    P a b                P a b c    P a b c d
                  N           -      -      N +[a b]             N a b c    N a b c d
    gated         P           P      P a    P a b                P a b c    P a b c d
                  N           -      -      N +[a b]             (N a b)    N a b +[c d]

After step 2, a lazy branch is an ordinary row of the session. Gated branches stay in a session of their own
(`gated_session`) and read on only when a step needs them.

A prompt is prefilled once, however many hypotheses need it. Its row without answer tokens is kept until no waiting
hypothesis needs it. Lazy hypotheses that chose the same tokens share a row. A model that shares prefixes reuses the KV
cache of the demonstrations from the reference's row in the running session.

Whether the reference decides is read together with the tokens that are chosen if it does
(`decoding.engine.step_batch.reference_batches`). Only steps that read further branches wait for the device twice.

    DeferredBranches.step_batches    one step: reads the branches of undecided hypotheses, returns the logits of each
    ._add_lazy_rows                  lazy: makes the missing rows and joins them to the session
    ._read_gated_rows                gated: makes the missing rows in `gated_session`, lets old ones read on
    ._make_rows                      prefills prompts, copies rows that others may need, reads the answers so far
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from decoding.engine.step_batch import StepBatch, branch_rows, gather_logits, with_early_exits
from icl.memory.device_copies import StepIndices
from icl.models.base import Session
from icl.models.interventions import TokenPart

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.hypotheses import DecodingGroup, Hypothesis

OpenBranches = Callable[[Sequence[str], Session], Session]
"""Prefills prompts, given by name. The session is the one whose cached prompt prefix is reused."""

RowState = tuple[str, tuple[int, ...], tuple[TokenPart, ...]]
"""A prompt, the tokens read after it, and the parts of the output that they lead on to. Equal states share a row."""


class DeferredBranches:
    """Branches of one token loop that its session does not hold yet.

    Attributes:
        open_branches: Prefills prompts.
        indices: Row numbers on the device.
        num_prefilled: Prompts prefilled so far.
        session: The running session, whose cached prompt prefix is reused.
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
        undecided: Sequence[tuple["DecodingGroup", "Hypothesis"]],
    ) -> tuple[Session, list[StepBatch]]:
        """Prefills the branches that this step needs.

        Args:
            session: The running session.
            groups: All running groups.
            undecided: Hypotheses whose reference does not decide this step.

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

    def _branch_logits(self, session: Session, group: "DecodingGroup", hypotheses: Sequence["Hypothesis"]) -> "Tensor":
        """Logits of all branches, [n, B, V]."""
        if not group.is_gated:
            return gather_logits(session.logits, branch_rows(hypotheses), self.indices)
        assert self.gated_session is not None
        reference = gather_logits(session.logits, [[h.rows[0] for h in hypotheses]], self.indices)
        rows = [[self.gated_rows[id(h)][b] for h in hypotheses] for b in range(len(hypotheses[0].prompts) - 1)]
        return torch.cat([reference, gather_logits(self.gated_session.logits, rows, self.indices)])

    def _add_lazy_rows(
        self, session: Session, groups: Sequence["DecodingGroup"], hypotheses: Sequence["Hypothesis"]
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

    def _read_gated_rows(self, groups: Sequence["DecodingGroup"], hypotheses: Sequence["Hypothesis"]) -> None:
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
            idle: Keys of `gated_rows` whose rows stay as they are.
            reading: Keys whose rows read on.
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


def _contrast_states(hypothesis: "Hypothesis") -> list[RowState]:
    """States of the contrast branches once they have read the answer so far."""
    return [_state(prompt, hypothesis) for prompt in hypothesis.prompts[1:]]


def _state(prompt: str, hypothesis: "Hypothesis") -> RowState:
    """The state of a branch that has read the answer so far."""
    return prompt, tuple(hypothesis.tokens), tuple(hypothesis.parts or ())


def _extend(session: Session, chunks: Sequence[Sequence[int]], parts: Sequence[Sequence[TokenPart]]) -> None:
    """Lets rows read chunks, with the parts of the output that their tokens lead on to if these matter for a row."""
    if any(parts):
        session.extend(chunks, parts)
    else:
        session.extend(chunks)


def _waiting_prompts(groups: Iterable["DecodingGroup"], excluded: Sequence["Hypothesis"]) -> set[str]:
    """Prompts that hypotheses whose branches were never prefilled may need later."""
    excluded_ids = {id(h) for h in excluded}
    return {
        prompt
        for group in groups
        for h in group.hypotheses
        if h.lacks_branch_rows and not h.is_prefilled and id(h) not in excluded_ids
        for prompt in h.prompts[1:]
    }


def _mark_read(hypothesis: "Hypothesis") -> None:
    """Records that the deferred branches have read all tokens, the new ones in one forward pass."""
    hypothesis.is_prefilled = True
    hypothesis.branch_forwards += hypothesis.branch_tokens < len(hypothesis.tokens)
    hypothesis.branch_tokens = len(hypothesis.tokens)
