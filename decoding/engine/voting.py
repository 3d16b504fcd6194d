"""Majority vote over several answers, for strategies with `traits.num_samples > 1`, or the choice of a judge.

Each sample has a random stream of its own; the first uses the stream of the query. Answers count as equal if they
differ only in case, blanks, a final period, or their reasoning blocks under a thinking budget. Of equally frequent
answers, the one with the highest mean log-probability per step (at temperature 1) wins, or the first one if there is no
trace.

With `traits.judge` there is no vote. When all samples are decoded, the engine scores the judge's word after each
distinct answer as an option, and the answer with the highest score wins, the first one if scores are equal. A judge
that is another model (`traits.judge_model`) is loaded once, however many arms name it, until `unload_judges`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from decoding import Arm, DecodingRequest, Failure, GreedyDecoding, judge_prompts
from icl import Generation, StreamKey, Usage, normalize_text, split_reasoning

_JUDGES: dict[str, Any] = {}
"""Digest -> judge that is another model than the one that answers, loaded beside it."""
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
            is_judged = len(places[i]) > 1 and requests[i].arm.traits.judge is not None
            if not is_judged and all(p in sample_results for p in places[i]):
                finish(i, _vote([sample_results.pop(p) for p in places[i]]))

        def finish(i: int, winner: Generation | Failure) -> None:
            results[i] = winner if trace or isinstance(winner, Failure) else replace(winner, trace={})
            if on_result is not None:
                on_result(i, results[i])

        run_requests(model, [sample for _, sample in samples], counters, trace=True, on_result=collect, **settings)
        judged = {i: [sample_results[p] for p in places[i]] for i in places if i not in results}
        checks = [(i, check) for i, answers in judged.items() for check in _checks(requests[i], answers)]
        verdicts: dict[int, list[Generation | Failure]] = {i: [] for i in judged}
        judges = {i: _judge(requests[i], model) for i, _ in checks}
        for judge in {id(one): one for one in judges.values()}.values():
            own = [(i, check) for i, check in checks if judges[i] is judge]
            prompts = [check for _, check in own]
            if judge is model:
                scored = run_requests(model, prompts, counters, trace=False, **settings)
            else:
                from decoding import run_requests as run_sessions

                scored = run_sessions(judge, prompts, counters, trace=False)
            for (i, _), verdict in zip(own, scored, strict=True):
                verdicts[i].append(verdict)
        for i, answers in judged.items():
            finish(i, _choose(answers, verdicts[i]))
        return [results[i] for i in range(len(requests))]

    return cast("RunRequests", run_with_votes)


def unload_judges() -> None:
    """Frees the weights of all judges that are not the model that answers."""
    while _JUDGES:
        _JUDGES.popitem()[1].unload()


def _judge(request: DecodingRequest, model: Any) -> Any:
    """The model that judges. It is `model` itself if their digests are equal, so that no weights are loaded twice."""
    judge = request.arm.traits.judge_model
    return model if judge is None or judge.digest == model.digest else _JUDGES.setdefault(judge.digest, judge)


def _samples(request: DecodingRequest) -> list[DecodingRequest]:
    """The request itself, or one request for each of its samples."""
    count = 1 if request.answer_mode == "options" else request.arm.traits.num_samples
    prompt = request.prompt
    keys = [prompt.key, *(StreamKey(prompt.key.seed, f"{prompt.key.query}/sample {i}") for i in range(1, count))]
    return [request] if count == 1 else [replace(request, prompt=replace(prompt, key=key)) for key in keys]


def _checks(request: DecodingRequest, answers: Sequence[Generation | Failure]) -> list[DecodingRequest]:
    """A request to score the judge's word for each answer; none if a sample failed, or without a judge."""
    if request.arm.traits.judge is None or any(isinstance(answer, Failure) for answer in answers):
        return []
    text, word = request.arm.traits.judge
    check = replace(
        request, arm=Arm(GreedyDecoding()), answer_mode="options", options=(word,), max_thinking_tokens=None
    )
    if request.arm.traits.judge_model is not None:  # vectors and text of the model that answers
        check = replace(check, intervene=None, prompt=replace(request.prompt, interventions=(), answer_start=""))
    texts = [_text(cast("Generation", answer)) for answer in answers]
    return [replace(check, prompt=prompt) for prompt in judge_prompts(check.prompt, text, texts)]


def _choose(results: Sequence[Generation | Failure], verdicts: Sequence[Generation | Failure]) -> Generation | Failure:
    """The answer with the highest score of the judge, with the usage of all samples and verdicts."""
    if not verdicts:
        return _vote(results)  # the failure of a sample
    for verdict in verdicts:
        if isinstance(verdict, Failure):
            return Failure(f"the judge: {verdict.reason}")
    answers, scored = cast("Sequence[Generation]", results), cast("Sequence[Generation]", verdicts)
    rewards = [next(iter(verdict.option_scores.values())) for verdict in scored]
    winner = answers[rewards.index(max(rewards))]
    return replace(winner, usage=_usage(winner, [*answers, *scored]))


def _text(answer: Generation) -> str:
    return split_reasoning(answer.text).answer if answer.thinking else answer.text


def _usage(winner: Generation, work: Sequence[Generation]) -> Usage:
    """The prompt tokens of the winner, and the tokens and passes of all."""
    return Usage(winner.usage.prompt_tokens, sum(a.usage.new_tokens for a in work), sum(a.usage.forwards for a in work))


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
        equal.setdefault(normalize_text(_text(answer)), []).append(answer)
    max_votes = max(map(len, equal.values()))
    winner = max((answer for same in equal.values() if len(same) == max_votes for answer in same), key=_mean_logprob)
    steps = len(winner.trace.get("logprob", ()))
    return replace(
        winner, usage=_usage(winner, answers), trace={**winner.trace, "votes": (max_votes / len(answers),) * steps}
    )


def _mean_logprob(answer: Generation) -> float:
    logprobs = answer.trace.get("logprob", ())
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
