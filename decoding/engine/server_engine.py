"""Jobs answered by a server that runs strategies: each job is one request, which names the strategy and its parameters.

The server makes the branches, decodes them in step and answers once (`icl serve`). Equal jobs are asked once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from decoding.arms.arm import Arm
from decoding.arms.inspection import branch_count
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.result_collector import Done, Result, ResultCollector
from decoding.engine.voting import with_voting
from decoding.formulas.sampling import Greedy, Sampling
from icl.errors import ICLError, PlanError
from icl.models.base import Request
from icl.registry import describe
from icl.types import Generation


class StrategyEndpoint(Protocol):
    """What a model gives whose server runs strategies."""

    def load(self) -> None: ...
    def generate_each(self, requests: Sequence[Request], done: Callable[[int, Generation | str], None]) -> None: ...


@with_voting
def run_requests(
    model: StrategyEndpoint,
    jobs: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    done: Done | None = None,
) -> list[Result]:
    """An answer for each job, in their order: what `decoding.engine.engine.run_requests` is for models with sessions.

    Raises ModelError where the server has gone; what was answered has been told to `done`.
    """
    counters = Counters() if counters is None else counters
    model.load()
    answers = ResultCollector(jobs, counters, done)
    requests: list[Request] = []
    for i, job in enumerate(jobs):
        try:
            request = _request(job)
            key = _key(job, request)
        except ICLError as error:
            answers.give(i, Failure(f"{job.arm.label}: {error}"))
            continue
        counters.branch_prompts += branch_count(job.arm.strategy)
        if answers.is_new(i, key):
            requests.append(request)
            counters.prompts_opened += branch_count(job.arm.strategy)
    places = answers.places()

    def said(place: int, answer: Generation | str) -> None:
        for i in places[place]:
            answers.give(i, Failure(f"{jobs[i].arm.label}: {answer}") if isinstance(answer, str) else answer)

    model.generate_each(requests, said)
    return answers.listed()


def arm_config(arm: Arm) -> dict[str, Any]:
    """The arm as a config would say it. Raises PlanError for a sampler that no config can name."""
    node: dict[str, Any] = describe(arm.strategy)
    if arm.sampler == arm.strategy.sampler:
        return node
    if isinstance(arm.sampler, Sampling):
        sampling = describe(arm.sampler)
        return node | {"sampling": {key: value for key, value in sampling.items() if key != "name"}}
    if isinstance(arm.sampler, Greedy):
        return node | {"sampling": {"temperature": 0}}
    raise PlanError(f"the sampler {type(arm.sampler).__name__} cannot be sent to a server; Sampling can.")


def _request(job: DecodingRequest) -> Request:
    scored = job.score == "options"
    return Request(
        job.prompt if job.arm.strategy.traits.reads_paired_prompt else replace(job.prompt, paired_prompt=None),
        job.options,
        job.max_new_tokens,
        score_options=scored,
        strategy=arm_config(job.arm),
        normalize=job.normalize,
        top=job.top,
    )


def _key(job: DecodingRequest, request: Request) -> str:
    """Equal keys have equal answers. Branches may read the prompt's random stream (noise on an image)."""
    strategy, key = job.arm.strategy, job.prompt.key
    alike = branch_count(strategy) == 1 and not strategy.traits.draws_random_numbers
    alike = alike and (request.score_options or job.arm.sampler.deterministic)
    how = [request.options, request.normalize] if request.score_options else [request.max_new_tokens, request.top]
    drawn = None if alike else [key.seed, key.query]
    other = request.prompt.paired_prompt.digest if request.prompt.paired_prompt is not None else ""
    return json.dumps([job.score, job.prompt.digest, other, request.strategy, how, drawn], sort_keys=True)
