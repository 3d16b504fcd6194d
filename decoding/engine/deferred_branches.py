"""Contrasts read as late as they can be: the other branches of answers whose reference has settled every step so far.

Where `Strategy.settled` says so, the other branches cannot change a step, greedy or sampled, so they need not have been
read by then, nor even prefilled. Two ways follow. *late*: an answer's other branches are opened at its first step that
is not settled, take the tokens chosen so far in one chunk, and from then on are rows beside the reference. *gated*:
they are opened likewise, but read on only where a step needs them, again in one chunk.

A prompt is opened once, however many answers come to need it: what is open is kept as it was prefilled for as long as
another answer may want it, and two answers that have chosen the same tokens share a row. It is opened beside the
session, so that a model which can lets it begin on the reference's row: demonstrations that both show are not read
again.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from icl.models.base import Session

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.token_loop import DecodingGroup, Hypothesis

OpenBranches = Callable[[Sequence[str], Session], Session]
"""Prefilled rows of prompts by their names, opened beside a session."""

State = tuple[str, tuple[int, ...]]
"""A prompt and the tokens read behind it: equal states are one row."""

StepBatch = tuple[list["Hypothesis"], "Tensor"]
"""Lanes that choose together, and the logits of their branches [n, B, V] float32."""


class DeferredBranches:
    """The branches of one loop that its session does not hold yet. opened: how many prompts were prefilled late."""

    def __init__(self, open_branches: OpenBranches) -> None:
        self.open_branches, self.opened = open_branches, 0
        self.beside: Session | None = None
        self.prefilled: dict[str, tuple[Session, int]] = {}
        self.deferred_rows: Session | None = None
        self.places: dict[int, list[int]] = {}  # id of a gated lane -> its rows in `asleep`

    def groups(self, session: Session, tracks: Sequence["DecodingGroup"]) -> tuple[Session, list[list[StepBatch]]]:
        """The session with the rows that came to be needed, and for each track what it chooses from at this step.

        A lane's step is taken either on all its branches, or on its reference in the place of each of them.
        """
        self.beside = session
        reference_decides = [_settled(session.logits, track) for track in tracks]
        needy = [[lane for lane, done in one if not done] for one in reference_decides]
        session = self._join(
            session,
            tracks,
            [lane for track, lanes in zip(tracks, needy, strict=True) if not track.gated for lane in lanes],
        )
        gated = [lane for track, lanes in zip(tracks, needy, strict=True) if track.gated for lane in lanes]
        if gated:
            self._catch_up(gated, tracks)
        return session, [
            self._groups(session, track, [lane for lane, done in one if done], lanes)
            for track, one, lanes in zip(tracks, reference_decides, needy, strict=True)
        ]

    def _groups(
        self, session: Session, track: "DecodingGroup", alone: list["Hypothesis"], needy: list["Hypothesis"]
    ) -> list[StepBatch]:
        waiting = {id(lane) for lane in (*alone, *(needy if track.gated else ()))}
        beside = [lane for lane in track.lanes if id(lane) not in waiting]
        found: list[StepBatch] = []
        if beside:
            found.append((beside, gather_logits(session.logits, branch_rows(beside))))
        if alone:
            reference = gather_logits(session.logits, [[lane.rows[0] for lane in alone]])
            found.append((alone, reference.expand(len(alone[0].prompts), -1, -1)))
        if track.gated and needy and self.deferred_rows is not None:
            reference = gather_logits(session.logits, [[lane.rows[0] for lane in needy]])
            others = [[self.places[id(lane)][b] for lane in needy] for b in range(len(needy[0].prompts) - 1)]
            found.append((needy, torch.cat([reference, gather_logits(self.deferred_rows.logits, others)])))
        return found

    def _join(self, session: Session, tracks: Sequence["DecodingGroup"], lanes: Sequence["Hypothesis"]) -> Session:
        """Late lanes get the rest of their rows."""
        if not lanes:
            return session
        known: dict[State, int] = {
            (prompt, tuple(lane.tokens)): row
            for track in tracks
            for lane in track.lanes
            for prompt, row in zip(lane.prompts, lane.rows, strict=False)
        }
        new = dict.fromkeys(state for lane in lanes for state in _missing(lane) if state not in known)
        if new:
            part, order = self._rows(list(new), _others(tracks, lanes))
            known |= {state: len(session) + row for state, row in order.items()}
            session = session.join(part)
        for lane in lanes:
            lane.rows = [lane.rows[0], *(known[state] for state in _missing(lane))]
            _count(lane)
        return session

    def _catch_up(self, lanes: Sequence["Hypothesis"], tracks: Sequence["DecodingGroup"]) -> None:
        """Gated lanes' sleeping rows read what their answers have come to."""
        running = {id(lane) for track in tracks if track.gated for lane in track.lanes}
        behind = [lane for lane in lanes if id(lane) in self.places and lane.read < len(lane.tokens)]
        chunks = [lane.tokens[lane.read :] for lane in behind for _ in self.places[id(lane)]]
        moving = [id(lane) for lane in behind]
        still = [key for key in self.places if key in running and key not in moving]
        self._select([*still, *moving], split=len(still), chunks=chunks)
        for lane in behind:
            _count(lane)
        new = [lane for lane in lanes if id(lane) not in self.places]
        if new:
            states = dict.fromkeys(state for lane in new for state in _missing(lane))
            part, order = self._rows(list(states), _others(tracks, new))
            whole = [order[state] for lane in new for state in _missing(lane)]
            part = part if whole == list(range(len(part))) else part.take(_index(whole, part))
            start = 0 if self.deferred_rows is None else len(self.deferred_rows)
            self.deferred_rows = part if self.deferred_rows is None else self.deferred_rows.join(part)
            for lane in new:
                count = len(lane.prompts) - 1
                self.places[id(lane)] = list(range(start, start + count))
                start += count
                _count(lane)

    def _select(self, keys: Sequence[int], split: int, chunks: Sequence[Sequence[int]]) -> None:
        """Keeps the rows of these lanes, in this order; those from the place `split` on read a chunk each."""
        if self.deferred_rows is None:
            return
        rows = [[row for key in some for row in self.places[key]] for some in (keys[:split], keys[split:])]
        parts: list[Session] = []
        for number, own in enumerate(rows):
            if not own:
                continue
            whole = own == list(range(len(self.deferred_rows)))
            part = self.deferred_rows if whole else self.deferred_rows.take(_index(own, self.deferred_rows))
            if not whole:
                part.trim()
            if number:
                part.extend(chunks)
            parts.append(part)
        sizes = {key: len(self.places[key]) for key in keys}
        self.places, start = {}, 0
        for key, size in sizes.items():
            self.places[key] = list(range(start, start + size))
            start += size
        self.deferred_rows = None if not parts else parts[0] if len(parts) == 1 else parts[0].join(parts[1])

    def _rows(self, states: Sequence[State], others: set[str]) -> tuple[Session, dict[State, int]]:
        """New rows at these states, and where each is. others: prompts that further answers may come to need."""
        wanted = dict.fromkeys(prompt for prompt, _ in states)
        new = [prompt for prompt in wanted if prompt not in self.prefilled]
        if new:
            assert self.beside is not None
            opened = self.open_branches(new, self.beside)
            self.opened += len(new)
            self.prefilled |= {prompt: (opened, row) for row, prompt in enumerate(new)}
        sources: dict[int, Session] = {}
        of: dict[int, list[State]] = {}
        for state in states:
            source = self.prefilled[state[0]][0]
            sources[id(source)] = source
            of.setdefault(id(source), []).append(state)
        part: Session | None = None
        order: dict[State, int] = {}
        for key, own in of.items():
            rows = [self.prefilled[prompt][1] for prompt, _ in own]
            spare = rows == list(range(len(sources[key]))) and not others & {prompt for prompt, _ in own}
            taken = sources[key] if spare else sources[key].take(_index(rows, sources[key]))
            part = taken if part is None else part.join(taken)
            order |= {state: len(order) + i for i, state in enumerate(own)}
        self.prefilled = {prompt: place for prompt, place in self.prefilled.items() if prompt in others}
        assert part is not None
        if any(tokens for _, tokens in order):
            part.extend([list(tokens) for _, tokens in order])
        return part, order


def branch_rows(lanes: Sequence["Hypothesis"]) -> list[list[int]]:
    """[n][B] rows of lanes with as many branches each."""
    return [[lane.rows[b] for lane in lanes] for b in range(len(lanes[0].rows))]


def gather_logits(logits: "Tensor", rows: list[list[int]]) -> "Tensor":
    """[n, B, V] float32 of the rows, without a copy where they lie in order."""
    flat = [row for branch in rows for row in branch]
    if flat == list(range(flat[0], flat[0] + len(flat))):
        picked = logits[flat[0] : flat[0] + len(flat)]
    else:
        picked = logits[torch.tensor(flat, device=logits.device)]
    return picked.float().view(len(rows), len(rows[0]), -1)


def _settled(logits: "Tensor", track: "DecodingGroup") -> list[tuple["Hypothesis", bool]]:
    """The lanes whose other branches are not there, and whether this step can do without them."""
    waiting = [lane for lane in track.lanes if lane.waits]
    if not waiting:
        return []
    done = track.strategy.reference_decides(gather_logits(logits, [[lane.rows[0] for lane in waiting]])[0])
    told = [False] * len(waiting) if done is None else done.tolist()
    return list(zip(waiting, told, strict=True))


def _missing(lane: "Hypothesis") -> list[State]:
    return [(prompt, tuple(lane.tokens)) for prompt in lane.prompts[1:]]


def _others(tracks: Iterable["DecodingGroup"], but: Sequence["Hypothesis"]) -> set[str]:
    """Prompts that lanes which have not opened theirs may come to need."""
    these = {id(lane) for lane in but}
    return {
        prompt
        for track in tracks
        for lane in track.lanes
        if lane.waits and not lane.opened and id(lane) not in these
        for prompt in lane.prompts[1:]
    }


def _count(lane: "Hypothesis") -> None:
    """The lane's other branches have read all its tokens, the new ones in one forward."""
    lane.opened = True
    lane.forwards += lane.read < len(lane.tokens)
    lane.read = len(lane.tokens)


def _index(rows: Sequence[int], session: Session) -> "Tensor":
    return torch.tensor(list(rows), device=session.logits.device)
