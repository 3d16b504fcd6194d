"""One batch answered: its distinct prompts opened once, options scored on the rows, then everything else decoded.

Prompts of other branches that are read late are opened by the loop, if at all.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from decoding.base import Strategy
from decoding.engine.beam_search import BeamSearch
from decoding.engine.branch_scheduling import BranchSchedule, History, choose_schedules
from decoding.engine.generations import option_generation, text_generation
from decoding.engine.option_scoring import OptionScoring, option_spellings, score
from decoding.engine.requests import ArmWork, Counters, Failure, LazyBranches, PreparedRequest, distinct_prompts
from decoding.engine.token_loop import DecodingGroup, Hypothesis, decode
from decoding.formulas.sampling import Beam, Sampler
from icl.models.base import LogitModel, Session
from icl.types import Generation, Prompt


def decode_batch(
    model: LogitModel,
    prepared_requests: Sequence[PreparedRequest],
    counters: Counters,
    trace: bool,
    lazy_branches: LazyBranches = "auto",
) -> list[Generation | Failure]:
    """Raises ICLError where the prompts cannot be opened together."""
    history, every = History(model), distinct_prompts(prepared_requests)
    shares_prefix = model.shares_prefix
    chosen = choose_schedules(prepared_requests, lazy_branches, history, shares_prefix)
    prompts = _now(prepared_requests, chosen)
    exits = any(ready.job.arm.strategy.traits.reads_early_exits for ready in prepared_requests)

    def opened(names: Iterable[str], beside: Session | None = None) -> Session:
        more: dict[str, Any] = {"early_exits": True} if exits else {}
        if shares_prefix and beside is not None:
            more["prefix_source"] = beside
        return model.open([every[name] for name in names], **more)

    session = opened(prompts)
    counters.batches += 1
    place = {digest: row for row, digest in enumerate(prompts)}
    ballots: dict[int, OptionScoring] = {}
    lanes: dict[int, Hypothesis] = {}
    for i, ready in enumerate(prepared_requests):
        job = ready.job
        rows = [place[digest] for digest in (ready.digests if chosen[i] == "eager" else ready.digests[:1])]
        if job.score == "options":
            ids = model.option_ids(ready.branches[0], job.options)
            firsts = _firsts(model, ready) if job.arm.strategy.traits.sums_first_tokens else ()
            ballots[i] = OptionScoring(
                job.arm.strategy,
                tuple(rows),
                tuple(map(tuple, ids)),
                job.prompt.key,
                job.options,
                job.normalize,
                firsts,
            )
        else:
            lanes[i] = Hypothesis(rows, job.max_new_tokens, job.prompt.key, top=job.top, prompts=ready.digests)
    score(session, list(ballots.values()))  # leaves the rows as they are; the loop uses them up
    work = decode(
        session,
        _tracks(prepared_requests, chosen, lanes),
        model.stop_tokens,
        trace=trace,
        open_branches=opened,
    )
    counters.prompts_opened += len(prompts) + work.opened
    counters.prompts_saved += len(every) - len(prompts) - work.opened
    counters.forwards += work.forwards
    counters.rows += work.rows
    counters.rows_asked += work.rows_asked
    for i, lane in lanes.items():
        history.learn(prepared_requests[i], chosen[i], lane)
        _count(prepared_requests[i], chosen[i], lane, counters)
    return [
        _scored(ready, ballots[i]) if i in ballots else _generated(model, ready, lanes[i])
        for i, ready in enumerate(prepared_requests)
    ]


def _firsts(model: LogitModel, ready: PreparedRequest) -> tuple[tuple[int, ...], ...]:
    """Each option's first tokens in all spellings, without those that begin another option too."""
    found = [
        {ids[0] for ids in model.option_ids(ready.branches[0], option_spellings(option)) if ids}
        for option in ready.job.options
    ]
    return tuple(tuple(sorted(own - set().union(*found[:i], *found[i + 1 :]))) for i, own in enumerate(found))


def _now(prepared_requests: Sequence[PreparedRequest], chosen: Sequence[BranchSchedule]) -> dict[str, Prompt]:
    """Digest -> prompt of what is opened before the first step: all references, then all second branches, ...

    So the logits of a branch lie side by side, and a step reads them where they are.
    """
    ways_of = list(zip(prepared_requests, chosen, strict=True))
    return {
        ready.digests[n]: ready.branches[n]
        for n in range(max(len(ready.branches) for ready in prepared_requests))
        for ready, way in ways_of
        if n < len(ready.branches) and (n == 0 or way == "eager")
    }


def _count(ready: PreparedRequest, way: BranchSchedule, lane: Hypothesis, counters: Counters) -> None:
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


def _tracks(
    prepared_requests: Sequence[PreparedRequest], chosen: Sequence[BranchSchedule], lanes: dict[int, Hypothesis]
) -> list[DecodingGroup]:
    tracks: dict[tuple[Strategy, Sampler, int, bool], DecodingGroup] = {}
    for i, lane in lanes.items():
        arm, gated = prepared_requests[i].job.arm, chosen[i] == "gated"
        key = (arm.strategy, arm.sampler, len(lane.prompts), gated)
        track = tracks.setdefault(key, DecodingGroup(arm.strategy, arm.sampler, [], gated))
        track.lanes.append(lane)
    for track in tracks.values():
        if isinstance(track.sampler, Beam) and track.sampler.beams > 1:
            track.search = BeamSearch(track.sampler, track.lanes)
            track.lanes = track.search.lanes
    return list(tracks.values())


def _generated(model: LogitModel, ready: PreparedRequest, lane: Hypothesis) -> Generation | Failure:
    if lane.finish == "fault" or not lane.finish:
        return Failure(f"{ready.job.arm.label}: {lane.fault}.")
    return text_generation(
        ready, model, lane.tokens, lane.finish, steps=lane.steps, numbers=lane.trace, step_traces=lane.step_traces
    )


def _scored(ready: PreparedRequest, ballot: OptionScoring) -> Generation | Failure:
    if ballot.fault:
        return Failure(f"{ready.job.arm.label}: {ballot.fault}.")
    return option_generation(ready, ballot.options, ballot.values())
