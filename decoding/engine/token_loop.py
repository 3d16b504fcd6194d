"""The token loop: many answers, of many strategies, over the rows of one session.

A *track* is the answers that one strategy and sampler decode side by side; each answer holds one row a branch. All
rows of all tracks go through one forward a step. Two answers that have read the same prompt and chosen the same tokens
are at the same state, so they share a row until they part: a control costs nothing until its first difference, and a
row is copied only then. Rows that no answer needs any more leave.

A lane may begin with its reference's row alone: its other branches are read when a step cannot do without them
(`decoding.engine.deferred_branches`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from decoding.base import Strategy
from decoding.engine.decoding_step import scores
from decoding.engine.deferred_branches import DeferredBranches, OpenBranches, branch_rows, gather_logits
from decoding.engine.trace import StepTrace, step_traces
from decoding.formulas.sampling import Sampler
from icl.models.base import Session
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.beam_search import BeamSearch

TRACE_FIELDS = ("survivors", "entropy", "changed", "logprob", "gap")
"""Per step: tokens that survive; entropy of the combined distribution in nats, before the sampler's temperature and
cuts; 1 where its best token is not the reference's; log-probability of the chosen token in it; nats by which its best
token leads the next (at most ALONE)."""

MAX_GAP = 1000.0
"""The gap where one token alone survives."""


@dataclass
class Hypothesis:
    """One answer while it is decoded. rows: of its branches, the reference first. limit: most new tokens.

    prompts: names of its branches' prompts; where there are more than rows, the other branches are read when needed.

    tokens: chosen so far, without the one that stopped it. finish: '' while it runs. fault: why it failed. memory: what
    its strategy kept, by step. top: tokens of each branch that `looks` keeps of every step; 0: it keeps nothing.
    contrasted: steps that were not settled by the reference alone, as far as that was looked at. opened, read,
    forwards: whether the other branches were prefilled for it, the tokens each has read behind its prompt, and in how
    many forwards.
    """

    rows: list[int]
    limit: int
    key: StreamKey = StreamKey()
    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    finish: Literal["", "stop", "length", "fault"] = ""
    fault: str = ""
    trace: list[list[float]] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)
    top: int = 0
    step_traces: list[StepTrace] = field(default_factory=list)
    prompts: tuple[str, ...] = ()
    contrasted: int = 0
    opened: bool = False
    read: int = 0
    forwards: int = 0

    @property
    def waits(self) -> bool:
        """Whether its session holds the reference alone."""
        return len(self.rows) < len(self.prompts)


@dataclass
class DecodingGroup:
    """The lanes of one strategy and sampler; every lane has the same number of branches.

    gated: other branches that a step does not need are not read on. search: where the sampler holds several beams, the
    lanes are these, and it takes their steps (`decoding.engine.beam_search`).
    """

    strategy: Strategy
    sampler: Sampler
    lanes: list[Hypothesis]
    gated: bool = False
    search: "BeamSearch | None" = None


@dataclass
class Work:
    """What a loop did: calls of the model that advance all rows, rows in them, and rows that lanes would have had each
    on their own; prompts prefilled late."""

    forwards: int = 0
    rows: int = 0
    rows_asked: int = 0
    opened: int = 0


def decode(
    session: Session,
    tracks: Sequence[DecodingGroup],
    stops: frozenset[int],
    *,
    trace: bool = True,
    open_branches: OpenBranches | None = None,
) -> Work:
    """Runs every lane to its end, writing into the lanes. The session is used up.

    later: opens prompts by their names, for lanes that begin without the rows of their other branches.
    """
    work = Work()
    running = [track for track in tracks if track.lanes]
    deferred = None if open_branches is None else DeferredBranches(open_branches)
    step = 0
    while running:
        if deferred is not None and any(lane.waits for track in running for lane in track.lanes):
            session, groups = deferred.groups(session, running)
        else:
            groups = [[(track.lanes, gather_logits(session.logits, branch_rows(track.lanes)))] for track in running]
        for track, own in zip(running, groups, strict=True):
            for lanes, branches in own:
                early_too = (
                    [early_exit_rows(session, [lane.rows[0] for lane in lanes])]
                    if track.strategy.traits.reads_early_exits
                    else []
                )
                logits = torch.cat([branches, *early_too]) if early_too else branches
                if track.search is not None:
                    track.lanes = track.search.step(track.strategy, lanes, logits, step=step, stops=stops, trace=trace)
                    continue
                for lane, token in zip(lanes, _chosen(track, lanes, logits, step, trace), strict=True):
                    _take(lane, token, stops)
            track.lanes = [lane for lane in track.lanes if not lane.finish]
        running = [track for track in running if track.lanes]
        if running:
            session = _advance(session, running, work)
        step += 1
    work.opened = 0 if deferred is None else deferred.opened
    return work


def _chosen(track: DecodingGroup, lanes: Sequence[Hypothesis], own: "Tensor", step: int, trace: bool) -> list[int]:
    """One token for every lane, decided on the combined scores. own: [n, B, V] logits of their branches."""
    combined, faults = scores(track.strategy, own, step, lanes)
    chosen = track.sampler.choose(combined, [lane.key for lane in lanes], step)
    told = trace_step(combined, own[0], chosen) if trace else []
    tokens: list[int] = chosen.tolist()
    top = max(lane.top for lane in lanes)
    seen = step_traces(track.strategy, own, combined, tokens, step=step, states=lanes, top=top) if top else []
    for i, lane in enumerate(lanes):
        if i in faults:
            lane.finish, lane.fault = "fault", faults[i]
            continue
        if trace:
            lane.trace.append(told[i])
            lane.contrasted += not lane.waits and told[i][0] > 1
        if lane.top:
            lane.step_traces.append(seen[i])
    return tokens


def _take(lane: Hypothesis, token: int, stops: frozenset[int]) -> None:
    lane.steps += 1
    if lane.finish:
        return
    if token in stops:
        lane.finish = "stop"
        return
    lane.tokens.append(token)
    if len(lane.tokens) >= lane.limit:
        lane.finish = "length"


def early_exit_rows(session: Session, rows: Sequence[int]) -> "Tensor":
    """[early layers, B, V] float32 of the rows. The session was opened with exits."""
    picked: Tensor = session.early_exit_logits[:, torch.tensor(list(rows), device=session.early_exit_logits.device)]
    return picked.float()


def trace_step(combined: "Tensor", reference: "Tensor", chosen: "Tensor") -> list[list[float]]:
    """[B][len(TRACE)], read back at once. chosen: [B] long, the tokens that were taken."""
    survivors = (combined > -float("inf")).sum(-1)
    told = combined.log_softmax(-1)
    entropy = torch.special.entr(told.exp()).sum(-1)
    changed = combined.argmax(-1) != reference.argmax(-1)
    logprob = told.gather(-1, chosen[:, None])[:, 0]
    best = told.topk(min(2, told.shape[-1])).values
    gap = (best[:, 0] - best[:, -1]).clamp(max=MAX_GAP)
    numbers: list[list[float]] = torch.stack([survivors.float(), entropy, changed.float(), logprob, gap], 1).tolist()
    return numbers


def _advance(session: Session, running: Sequence[DecodingGroup], work: Work) -> Session:
    """Every lane's last token to each of its rows. Lanes with equal rows and tokens share the row they go on with."""
    needed = {(row, lane.tokens[-1]) for track in running for lane in track.lanes for row in lane.rows}
    following = sorted(needed)
    place = {state: i for i, state in enumerate(following)}
    for track in running:
        for lane in track.lanes:
            lane.rows = [place[row, lane.tokens[-1]] for row in lane.rows]
            if len(lane.rows) > 1:
                lane.read, lane.forwards = lane.read + 1, lane.forwards + 1
            work.rows_asked += len(lane.rows)
    before = [row for row, _ in following]
    if before != list(range(len(session))):
        session = session.take(torch.tensor(before, device=session.logits.device))
        session.trim()
    session.advance(torch.tensor([token for _, token in following], device=session.logits.device))
    work.forwards += 1
    work.rows += len(before)
    return session
