"""Several answers to one job, and the most frequent of them: what a strategy that `samples` more than once asks for.

Each answer draws from a stream of its own, the first from the query's. Answers are one where they are equal but for
case, blanks and a full stop. A tie is broken by the model's own log-probability a step, at temperature 1: of the most
frequent answers the most probable wins, and the first where no trace is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from decoding.engine.requests import DecodingRequest, Failure
from icl.metrics.normalize import normalize_text
from icl.streams import StreamKey
from icl.types import Generation, Usage

Run = TypeVar("Run", bound=Callable[..., list[Generation | Failure]])


def with_voting(run: Run) -> Run:
    """An engine's `run_requests` that asks several times where a strategy wants it, and counts the votes."""

    @wraps(run)
    def run_requests(
        model: Any,
        jobs: Sequence[DecodingRequest],
        counters: Any = None,
        *,
        trace: bool = True,
        done: Callable[[int, Generation | Failure], None] | None = None,
        **more: Any,
    ) -> list[Generation | Failure]:
        asked = [(i, one) for i, job in enumerate(jobs) for one in _each(job)]
        if len(asked) == len(jobs):
            return run(model, jobs, counters, trace=trace, done=done, **more)
        whose: dict[int, list[int]] = {}
        for place, (i, _) in enumerate(asked):
            whose.setdefault(i, []).append(place)
        said: dict[int, Generation | Failure] = {}
        answers: dict[int, Generation | Failure] = {}

        def finished(place: int, answer: Generation | Failure) -> None:
            said[place] = answer
            i = asked[place][0]
            if all(p in said for p in whose[i]):
                voted = _voted([said.pop(p) for p in whose[i]])
                answers[i] = voted if trace or isinstance(voted, Failure) else replace(voted, trace={})
                if done is not None:
                    done(i, answers[i])

        run(model, [one for _, one in asked], counters, trace=True, done=finished, **more)
        return [answers[i] for i in range(len(jobs))]

    return cast("Run", run_requests)


def _each(job: DecodingRequest) -> list[DecodingRequest]:
    """The job, or its samples."""
    count = 1 if job.score == "options" else job.arm.strategy.traits.num_samples
    prompt = job.prompt
    keys = [prompt.key, *(StreamKey(prompt.key.seed, f"{prompt.key.query}/sample {i}") for i in range(1, count))]
    return [job] if count == 1 else [replace(job, prompt=replace(prompt, key=key)) for key in keys]


def _voted(answers: Sequence[Generation | Failure]) -> Generation | Failure:
    """The winner, with the cost of all. `votes` in its trace: the share of answers that agree with it, each step."""
    told: list[Generation] = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        told.append(answer)
    if len(told) == 1:
        return told[0]
    alike: dict[str, list[Generation]] = {}
    for answer in told:
        alike.setdefault(normalize_text(answer.text), []).append(answer)
    most = max(map(len, alike.values()))
    winner = max((answer for same in alike.values() if len(same) == most for answer in same), key=_probable)
    usage = Usage(
        winner.usage.prompt_tokens, sum(a.usage.new_tokens for a in told), sum(a.usage.forwards for a in told)
    )
    steps = len(winner.trace.get("logprob", ()))
    return replace(winner, usage=usage, trace={**winner.trace, "votes": (most / len(told),) * steps})


def _probable(answer: Generation) -> float:
    """Mean log-probability a step."""
    told = answer.trace.get("logprob", ())
    return sum(told) / len(told) if told else 0.0
