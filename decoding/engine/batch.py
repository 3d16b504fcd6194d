"""One batch answered: its distinct prompts opened once, options scored on the rows, then everything else decoded.

Prompts of other branches that are read late are opened by the loop, if at all.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from decoding.base import Strategy
from decoding.engine.beam_search import Search
from decoding.engine.branch_scheduling import History, Way, ways
from decoding.engine.generations import of_options, of_text
from decoding.engine.option_scoring import Ballot, score, spellings
from decoding.engine.requests import ArmWork, Counters, Failure, Late, Ready, distinct
from decoding.engine.token_loop import Lane, Track, decode
from decoding.formulas.sampling import Beam, Sampler
from icl.models import optional
from icl.models.base import LogitModel, Session
from icl.types import Generation, Prompt


def answered(
    model: LogitModel, readies: Sequence[Ready], counters: Counters, trace: bool, late: Late = "auto"
) -> list[Generation | Failure]:
    """Raises ICLError where the prompts cannot be opened together."""
    history, every = History(model), distinct(readies)
    shares_prefix = optional.shares_prefix(model)
    chosen = ways(readies, late, history, shares_prefix)
    prompts = _now(readies, chosen)
    exits = any(ready.job.arm.strategy.exits for ready in readies)

    def opened(names: Iterable[str], beside: Session | None = None) -> Session:
        more: dict[str, Any] = {"early_exits": True} if exits else {}
        if shares_prefix and beside is not None:
            more["prefix_source"] = beside
        return model.open([every[name] for name in names], **more)

    session = opened(prompts)
    counters.batches += 1
    place = {digest: row for row, digest in enumerate(prompts)}
    ballots: dict[int, Ballot] = {}
    lanes: dict[int, Lane] = {}
    for i, ready in enumerate(readies):
        job = ready.job
        rows = [place[digest] for digest in (ready.digests if chosen[i] == "eager" else ready.digests[:1])]
        if job.score == "options":
            ids = model.option_ids(ready.branches[0], job.options)
            firsts = _firsts(model, ready) if job.arm.strategy.first_tokens else ()
            ballots[i] = Ballot(
                job.arm.strategy,
                tuple(rows),
                tuple(map(tuple, ids)),
                job.prompt.key,
                job.options,
                job.normalize,
                firsts,
            )
        else:
            lanes[i] = Lane(rows, job.max_new_tokens, job.prompt.key, top=job.top, prompts=ready.digests)
    score(session, list(ballots.values()))  # leaves the rows as they are; the loop uses them up
    work = decode(
        session,
        _tracks(readies, chosen, lanes),
        model.stop_tokens,
        trace=trace,
        later=opened,
    )
    counters.prompts_opened += len(prompts) + work.opened
    counters.prompts_saved += len(every) - len(prompts) - work.opened
    counters.forwards += work.forwards
    counters.rows += work.rows
    counters.rows_asked += work.rows_asked
    for i, lane in lanes.items():
        history.learn(readies[i], chosen[i], lane)
        _count(readies[i], chosen[i], lane, counters)
    return [
        _scored(ready, ballots[i]) if i in ballots else _generated(model, ready, lanes[i])
        for i, ready in enumerate(readies)
    ]


def _firsts(model: LogitModel, ready: Ready) -> tuple[tuple[int, ...], ...]:
    """Each option's first tokens in all spellings, without those that begin another option too."""
    found = [
        {ids[0] for ids in model.option_ids(ready.branches[0], spellings(option)) if ids}
        for option in ready.job.options
    ]
    return tuple(tuple(sorted(own - set().union(*found[:i], *found[i + 1 :]))) for i, own in enumerate(found))


def _now(readies: Sequence[Ready], chosen: Sequence[Way]) -> dict[str, Prompt]:
    """Digest -> prompt of what is opened before the first step: all references, then all second branches, ...

    So the logits of a branch lie side by side, and a step reads them where they are.
    """
    ways_of = list(zip(readies, chosen, strict=True))
    return {
        ready.digests[n]: ready.branches[n]
        for n in range(max(len(ready.branches) for ready in readies))
        for ready, way in ways_of
        if n < len(ready.branches) and (n == 0 or way == "eager")
    }


def _count(ready: Ready, way: Way, lane: Lane, counters: Counters) -> None:
    others = len(ready.branches) - 1
    if not others or lane.finish == "fault":
        return
    work, steps = counters.arms.setdefault(ready.job.arm.label, ArmWork()), lane.steps - 1  # the last token is not read
    setattr(work, way, getattr(work, way) + 1)
    work.contrasts += others
    work.tokens += others * steps
    if way != "eager":
        work.tokens_saved += others * (steps - lane.read)
        work.forwards_saved += others * (steps - lane.forwards)
        if not lane.opened:
            work.prefills_saved += others
            work.prompt_tokens_saved += sum(ready.tokens[1:])


def _tracks(readies: Sequence[Ready], chosen: Sequence[Way], lanes: dict[int, Lane]) -> list[Track]:
    tracks: dict[tuple[Strategy, Sampler, int, bool], Track] = {}
    for i, lane in lanes.items():
        arm, gated = readies[i].job.arm, chosen[i] == "gated"
        key = (arm.strategy, arm.sampler, len(lane.prompts), gated)
        track = tracks.setdefault(key, Track(arm.strategy, arm.sampler, [], gated))
        track.lanes.append(lane)
    for track in tracks.values():
        if isinstance(track.sampler, Beam) and track.sampler.beams > 1:
            track.search = Search(track.sampler, track.lanes)
            track.lanes = track.search.lanes
    return list(tracks.values())


def _generated(model: LogitModel, ready: Ready, lane: Lane) -> Generation | Failure:
    if lane.finish == "fault" or not lane.finish:
        return Failure(f"{ready.job.arm.label}: {lane.fault}.")
    return of_text(ready, model, lane.tokens, lane.finish, steps=lane.steps, numbers=lane.trace, looks=lane.looks)


def _scored(ready: Ready, ballot: Ballot) -> Generation | Failure:
    if ballot.fault:
        return Failure(f"{ready.job.arm.label}: {ballot.fault}.")
    return of_options(ready, ballot.options, ballot.values())
