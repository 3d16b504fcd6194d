"""Majority vote over several answers, for strategies with `traits.num_samples > 1`.

Each sample has a random stream of its own; the first uses the stream of the query. Answers count as equal if they
differ only in case, blanks, a final period, or their reasoning blocks under a thinking budget. Of equally frequent
answers, the one with the highest mean log-probability per step (at temperature 1) wins, or the first one if there is no
trace.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from decoding.engine.requests import DecodingRequest, Failure
from icl import Generation, StreamKey, Usage, normalize_text, split_reasoning

RunRequests = TypeVar("RunRequests", bound=Callable[..., list[Generation | Failure]])


def with_voting(run_requests: RunRequests) -> RunRequests:
    """Decorator of an engine's `run_requests`: decodes several samples where a strategy asks for them, and votes."""

    @wraps(run_requests)
    def run_with_votes(
        model: Any,
        requests: Sequence[DecodingRequest],
        counters: Any = None,
        *,
        trace: bool = True,
        on_result: Callable[[int, Generation | Failure], None] | None = None,
        **settings: Any,
    ) -> list[Generation | Failure]:
        samples = [(i, sample) for i, request in enumerate(requests) for sample in _samples(request)]
        if len(samples) == len(requests):
            return run_requests(model, requests, counters, trace=trace, on_result=on_result, **settings)
        places: dict[int, list[int]] = {}
        for place, (i, _) in enumerate(samples):
            places.setdefault(i, []).append(place)
        sample_results: dict[int, Generation | Failure] = {}
        results: dict[int, Generation | Failure] = {}

        def collect(place: int, result: Generation | Failure) -> None:
            sample_results[place] = result
            i = samples[place][0]
            if all(p in sample_results for p in places[i]):
                winner = _vote([sample_results.pop(p) for p in places[i]])
                results[i] = winner if trace or isinstance(winner, Failure) else replace(winner, trace={})
                if on_result is not None:
                    on_result(i, results[i])

        run_requests(model, [sample for _, sample in samples], counters, trace=True, on_result=collect, **settings)
        return [results[i] for i in range(len(requests))]

    return cast("RunRequests", run_with_votes)


def _samples(request: DecodingRequest) -> list[DecodingRequest]:
    """The request itself, or one request for each of its samples."""
    count = 1 if request.answer_mode == "options" else request.arm.traits.num_samples
    prompt = request.prompt
    keys = [prompt.key, *(StreamKey(prompt.key.seed, f"{prompt.key.query}/sample {i}") for i in range(1, count))]
    return [request] if count == 1 else [replace(request, prompt=replace(prompt, key=key)) for key in keys]


def _vote(results: Sequence[Generation | Failure]) -> Generation | Failure:
    """The winner, with the usage of all samples. `votes` in its trace is the proportion of equal answers."""
    answers: list[Generation] = []
    for result in results:
        if isinstance(result, Failure):
            return result
        answers.append(result)
    if len(answers) == 1:
        return answers[0]
    equal: dict[str, list[Generation]] = {}
    for answer in answers:
        text = split_reasoning(answer.text).answer if answer.thinking else answer.text
        equal.setdefault(normalize_text(text), []).append(answer)
    max_votes = max(map(len, equal.values()))
    winner = max((answer for same in equal.values() if len(same) == max_votes for answer in same), key=_mean_logprob)
    usage = Usage(
        winner.usage.prompt_tokens, sum(a.usage.new_tokens for a in answers), sum(a.usage.forwards for a in answers)
    )
    steps = len(winner.trace.get("logprob", ()))
    return replace(winner, usage=usage, trace={**winner.trace, "votes": (max_votes / len(answers),) * steps})


def _mean_logprob(answer: Generation) -> float:
    logprobs = answer.trace.get("logprob", ())
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
