"""One batch answered: its distinct prompts opened once, options scored on the rows, then everything else decoded."""

from collections.abc import Sequence

from decoding.base import Strategy
from decoding.jobs import Counters, Failure, Ready, distinct
from decoding.loop import TRACE, Lane, Track, decode
from decoding.sampling import Sampler
from decoding.score import Ballot, score, spellings
from decoding.trace import compact
from icl.models.base import LogitModel
from icl.types import Generation, Usage


def answered(
    model: LogitModel, readies: Sequence[Ready], counters: Counters, trace: bool
) -> list[Generation | Failure]:
    """Raises ICLError where the prompts cannot be opened together."""
    prompts = distinct(readies)
    session = model.open(list(prompts.values()))
    counters.prompts_opened += len(prompts)
    counters.batches += 1
    place = {digest: row for row, digest in enumerate(prompts)}
    ballots: dict[int, Ballot] = {}
    lanes: dict[int, Lane] = {}
    for i, ready in enumerate(readies):
        rows, job = [place[digest] for digest in ready.digests], ready.job
        if job.score == "options":
            ids = model.option_ids(ready.branches[0], job.options)
            firsts = _firsts(model, ready) if job.arm.strategy.first_tokens else ()
            ballots[i] = Ballot(
                job.arm.strategy,
                tuple(rows),
                tuple(map(tuple, ids)),
                job.prompt.key,
                job.options,
                job.normalise,
                firsts,
            )
        else:
            lanes[i] = Lane(rows, job.max_new_tokens, job.prompt.key, top=job.top)
    score(session, list(ballots.values()))  # leaves the rows as they are; the loop uses them up
    work = decode(session, _tracks(readies, lanes), model.stop_tokens, trace=trace)
    counters.forwards += work.forwards
    counters.rows += work.rows
    counters.rows_asked += work.rows_asked
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


def _tracks(readies: Sequence[Ready], lanes: dict[int, Lane]) -> list[Track]:
    tracks: dict[tuple[Strategy, Sampler, int], Track] = {}
    for i, lane in lanes.items():
        arm = readies[i].job.arm
        track = tracks.setdefault((arm.strategy, arm.sampler, len(lane.rows)), Track(arm.strategy, arm.sampler, []))
        track.lanes.append(lane)
    return list(tracks.values())


def _generated(model: LogitModel, ready: Ready, lane: Lane) -> Generation | Failure:
    if lane.finish == "fault" or not lane.finish:
        return Failure(f"{ready.job.arm.label}: {lane.fault}.")
    trace = dict(zip(TRACE, map(tuple, zip(*lane.trace, strict=True)), strict=True)) if lane.trace else {}
    usage = Usage(sum(ready.tokens), lane.steps, lane.steps * len(ready.branches))
    steps = compact(lane.looks, model.stop_tokens, model.text)
    return Generation(model.text(lane.tokens), tuple(lane.tokens), lane.finish, usage, trace, steps=steps)


def _scored(ready: Ready, ballot: Ballot) -> Generation | Failure:
    if ballot.fault:
        return Failure(f"{ready.job.arm.label}: {ballot.fault}.")
    job = ready.job
    values = ballot.values()
    best = max(range(len(values)), key=values.__getitem__)
    tokens = sum(len(option) for option in ballot.options)
    usage = Usage(sum(ready.tokens), tokens, len(ready.branches))
    scores = dict(zip(job.options, values, strict=True))
    return Generation(job.options[best], ballot.options[best], "stop", usage, option_scores=scores)
