"""Contrast branches that are read only when a step needs them.

If the plausibility mask leaves a single token, the contrast cannot change it. As long as every step of an answer is
decided like this by its reference (`Strategy.reference_decides`), its contrast branches need not be prefilled. Branches
are scheduled in one of three ways (`decoding.engine.branch_scheduling`). `P` is the reference, `N` a contrast branch,
letters are tokens, and `+[..]` tokens that a row reads in one forward pass:

    step                      0      1      2                    3          4
    the reference decides     yes    yes    no                   yes        no
    eager         P           P      P a    P a b                P a b c    P a b c d
                  N           N      N a    N a b                N a b c    N a b c d
    lazy          P           P      P a    P a b                P a b c    P a b c d
                  N           -      -      N +[a b]             N a b c    N a b c d
    gated         P           P      P a    P a b                P a b c    P a b c d
                  N           -      -      N +[a b]             (N a b)    N a b +[c d]

After step 2, a lazy branch is an ordinary row of the session. Gated branches stay in a session of their own
(`deferred_rows`) and read on only when a step needs them.

A prompt is prefilled once, however many hypotheses need it. It is kept as prefilled while another hypothesis may need
it, and hypotheses that chose the same tokens share a row. Prompts are prefilled with the running session as the prefix
source. A model that shares prefixes therefore reuses the demonstrations' KV cache of the reference.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from icl.models.base import Session

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.token_loop import DecodingGroup, Hypothesis

OpenBranches = Callable[[Sequence[str], Session], Session]
"""Prefills prompts, given by name, with a session as their prefix source."""

RowState = tuple[str, tuple[int, ...]]
"""A prompt and the tokens read after it. Equal states share a row."""

StepBatch = tuple[list["Hypothesis"], "Tensor"]
"""Hypotheses that choose a token together, and the logits of their branches, [n, B, V] float32."""


class DeferredBranches:
    """Branches of one token loop that its session does not hold yet.

    Attributes:
        open_branches: Prefills prompts.
        num_prefilled: Prompts prefilled so far.
        session: The running session, as prefix source.
        prefilled: Prompt -> session and row in which it is prefilled, without tokens of an answer.
        deferred_rows: Rows of gated branches.
        row_numbers: id of a gated hypothesis -> its rows in `deferred_rows`.
    """

    def __init__(self, open_branches: OpenBranches) -> None:
        self.open_branches, self.num_prefilled = open_branches, 0
        self.session: Session | None = None
        self.prefilled: dict[str, tuple[Session, int]] = {}
        self.deferred_rows: Session | None = None
        self.row_numbers: dict[int, list[int]] = {}

    def step_batches(
        self, session: Session, groups: Sequence["DecodingGroup"]
    ) -> tuple[Session, list[list[StepBatch]]]:
        """Prefills the branches that this step needs.

        Returns:
            The session with added rows, and the step batches of each group. A step uses all branches of a hypothesis,
            or its reference in the place of each of them.
        """
        self.session = session
        decided = [_split_by_decision(session.logits, group) for group in groups]
        needy = [[h for h, is_decided in pairs if not is_decided] for pairs in decided]
        lazy = [h for group, needing in zip(groups, needy, strict=True) if not group.is_gated for h in needing]
        gated = [h for group, needing in zip(groups, needy, strict=True) if group.is_gated for h in needing]
        session = self._join(session, groups, lazy)
        if gated:
            self._catch_up(gated, groups)
        return session, [
            self._group_batches(session, group, [h for h, is_decided in pairs if is_decided], needing)
            for group, pairs, needing in zip(groups, decided, needy, strict=True)
        ]

    def _group_batches(
        self, session: Session, group: "DecodingGroup", decided: list["Hypothesis"], needy: list["Hypothesis"]
    ) -> list[StepBatch]:
        outside = {id(h) for h in (*decided, *(needy if group.is_gated else ()))}
        complete = [h for h in group.hypotheses if id(h) not in outside]
        batches: list[StepBatch] = []
        if complete:
            batches.append((complete, gather_logits(session.logits, branch_rows(complete))))
        if decided:
            reference = gather_logits(session.logits, [[h.rows[0] for h in decided]])
            batches.append((decided, reference.expand(len(decided[0].prompts), -1, -1)))
        if group.is_gated and needy and self.deferred_rows is not None:
            reference = gather_logits(session.logits, [[h.rows[0] for h in needy]])
            others = [[self.row_numbers[id(h)][b] for h in needy] for b in range(len(needy[0].prompts) - 1)]
            batches.append((needy, torch.cat([reference, gather_logits(self.deferred_rows.logits, others)])))
        return batches

    def _join(self, session: Session, groups: Sequence["DecodingGroup"], hypotheses: Sequence["Hypothesis"]) -> Session:
        """Adds the missing rows of lazy hypotheses to the session."""
        if not hypotheses:
            return session
        row_of: dict[RowState, int] = {
            (prompt, tuple(h.tokens)): row
            for group in groups
            for h in group.hypotheses
            for prompt, row in zip(h.prompts, h.rows, strict=False)
        }
        new = dict.fromkeys(state for h in hypotheses for state in _missing_states(h) if state not in row_of)
        if new:
            part, order = self._make_rows(list(new), _waiting_prompts(groups, hypotheses))
            row_of |= {state: len(session) + row for state, row in order.items()}
            session = session.join(part)
        for hypothesis in hypotheses:
            hypothesis.rows = [hypothesis.rows[0], *(row_of[state] for state in _missing_states(hypothesis))]
            _count_read(hypothesis)
        return session

    def _catch_up(self, hypotheses: Sequence["Hypothesis"], groups: Sequence["DecodingGroup"]) -> None:
        """Lets the gated rows of these hypotheses read all tokens chosen so far."""
        running = {id(h) for group in groups if group.is_gated for h in group.hypotheses}
        behind = [h for h in hypotheses if id(h) in self.row_numbers and h.branch_tokens < len(h.tokens)]
        chunks = [h.tokens[h.branch_tokens :] for h in behind for _ in self.row_numbers[id(h)]]
        reading = [id(h) for h in behind]
        idle = [key for key in self.row_numbers if key in running and key not in reading]
        self._extend_rows(idle, reading, chunks)
        for hypothesis in behind:
            _count_read(hypothesis)
        new = [h for h in hypotheses if id(h) not in self.row_numbers]
        if new:
            states = dict.fromkeys(state for h in new for state in _missing_states(h))
            part, order = self._make_rows(list(states), _waiting_prompts(groups, new))
            rows = [order[state] for h in new for state in _missing_states(h)]
            part = part if rows == list(range(len(part))) else part.take(_index(rows, part))
            start = 0 if self.deferred_rows is None else len(self.deferred_rows)
            self.deferred_rows = part if self.deferred_rows is None else self.deferred_rows.join(part)
            for hypothesis in new:
                count = len(hypothesis.prompts) - 1
                self.row_numbers[id(hypothesis)] = list(range(start, start + count))
                start += count
                _count_read(hypothesis)

    def _extend_rows(self, idle: Sequence[int], reading: Sequence[int], chunks: Sequence[Sequence[int]]) -> None:
        """Keeps the deferred rows of these hypotheses and drops all others. Rows of `reading` read one chunk each."""
        if self.deferred_rows is None:
            return
        parts: list[Session] = []
        for keys in (idle, reading):
            rows = [row for key in keys for row in self.row_numbers[key]]
            if not rows:
                continue
            is_whole = rows == list(range(len(self.deferred_rows)))
            part = self.deferred_rows if is_whole else self.deferred_rows.take(_index(rows, self.deferred_rows))
            if not is_whole:
                part.trim()
            if keys is reading:
                part.extend(chunks)
            parts.append(part)
        sizes = {key: len(self.row_numbers[key]) for key in (*idle, *reading)}
        self.row_numbers, start = {}, 0
        for key, size in sizes.items():
            self.row_numbers[key] = list(range(start, start + size))
            start += size
        self.deferred_rows = None if not parts else parts[0] if len(parts) == 1 else parts[0].join(parts[1])

    def _make_rows(self, states: Sequence[RowState], waiting_prompts: set[str]) -> tuple[Session, dict[RowState, int]]:
        """New rows in these states, and the row of each.

        Args:
            states: Distinct states.
            waiting_prompts: Prompts that other hypotheses may need later.
        """
        new = [prompt for prompt in dict.fromkeys(prompt for prompt, _ in states) if prompt not in self.prefilled]
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
        order: dict[RowState, int] = {}
        for key, source_states in states_of.items():
            rows = [self.prefilled[prompt][1] for prompt, _ in source_states]
            is_last_use = not waiting_prompts & {prompt for prompt, _ in source_states}
            is_whole = rows == list(range(len(sources[key])))
            taken = sources[key] if is_whole and is_last_use else sources[key].take(_index(rows, sources[key]))
            part = taken if part is None else part.join(taken)
            order |= {state: len(order) + i for i, state in enumerate(source_states)}
        self.prefilled = {prompt: place for prompt, place in self.prefilled.items() if prompt in waiting_prompts}
        assert part is not None
        if any(tokens for _, tokens in order):
            part.extend([list(tokens) for _, tokens in order])
        return part, order


def branch_rows(hypotheses: Sequence["Hypothesis"]) -> list[list[int]]:
    """[n][B] rows of hypotheses with equal numbers of branches."""
    return [[h.rows[b] for h in hypotheses] for b in range(len(hypotheses[0].rows))]


def gather_logits(logits: "Tensor", rows: list[list[int]]) -> "Tensor":
    """Logits of rows: [R, V] and [n][B] row numbers -> [n, B, V] float32. Adjacent rows are not copied."""
    flat = [row for branch in rows for row in branch]
    if flat == list(range(flat[0], flat[0] + len(flat))):
        selected = logits[flat[0] : flat[0] + len(flat)]
    else:
        selected = logits[torch.tensor(flat, device=logits.device)]
    return selected.float().view(len(rows), len(rows[0]), -1)


def _split_by_decision(logits: "Tensor", group: "DecodingGroup") -> list[tuple["Hypothesis", bool]]:
    """The hypotheses without their contrast branches, and whether the reference decides this step for each."""
    deferred = [h for h in group.hypotheses if h.is_deferred]
    if not deferred:
        return []
    decided = group.strategy.reference_decides(gather_logits(logits, [[h.rows[0] for h in deferred]])[0])
    flags = [False] * len(deferred) if decided is None else decided.tolist()
    return list(zip(deferred, flags, strict=True))


def _missing_states(hypothesis: "Hypothesis") -> list[RowState]:
    return [(prompt, tuple(hypothesis.tokens)) for prompt in hypothesis.prompts[1:]]


def _waiting_prompts(groups: Iterable["DecodingGroup"], excluded: Sequence["Hypothesis"]) -> set[str]:
    """Prompts that hypotheses whose branches were never prefilled may need later."""
    excluded_ids = {id(h) for h in excluded}
    return {
        prompt
        for group in groups
        for h in group.hypotheses
        if h.is_deferred and not h.is_prefilled and id(h) not in excluded_ids
        for prompt in h.prompts[1:]
    }


def _count_read(hypothesis: "Hypothesis") -> None:
    """Records that the deferred branches have read all tokens, the new ones in one forward pass."""
    hypothesis.is_prefilled = True
    hypothesis.branch_forwards += hypothesis.branch_tokens < len(hypothesis.tokens)
    hypothesis.branch_tokens = len(hypothesis.tokens)


def _index(rows: Sequence[int], session: Session) -> "Tensor":
    return torch.tensor(list(rows), device=session.logits.device)
