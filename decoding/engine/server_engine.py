"""The engine for servers that run strategies (`icl serve`): each decoding request is one request to the server.

A request names the strategy and its parameters. The server makes the branches, decodes them and sends one answer. Equal
requests are sent once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from decoding import Arm, Counters, DecodingRequest, Failure, Greedy, Sampling, branch_count
from decoding.engine import OnResult, Result, ResultCollector, cut_generation, with_reasoned_options, with_voting
from icl import Generation, ICLError, PlanError, Request, describe


class StrategyEndpoint(Protocol):
    """A model whose server runs strategies."""

    def load(self) -> None: ...
    def generate_each(
        self, requests: Sequence[Request], on_answer: Callable[[int, Generation | str], None]
    ) -> None: ...


@with_voting
@with_reasoned_options
def run_requests(
    model: StrategyEndpoint,
    requests: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    on_result: OnResult | None = None,
) -> list[Result]:
    """Decodes requests on a server, as `decoding.engine.engine.run_requests` does on a model with sessions.

    Raises:
        ModelError: The server is unavailable. Results that arrived before were passed to `on_result`.
    """
    counters = Counters() if counters is None else counters
    model.load()
    collector = ResultCollector(requests, counters, on_result)
    server_requests: list[Request] = []
    for i, request in enumerate(requests):
        try:
            server_request = _server_request(request)
            key = _key(request, server_request)
        except ICLError as error:
            collector.add(i, Failure(f"{request.arm.label}: {error}"))
            continue
        num_branches = branch_count(request.arm.strategy)
        counters.branch_prompts += num_branches
        if collector.is_first(i, key):
            server_requests.append(server_request)
            counters.prompts_prefilled += num_branches
    indices = collector.request_indices()

    def on_answer(place: int, answer: Generation | str) -> None:
        for i in indices[place]:
            if isinstance(answer, str):
                collector.add(i, Failure(f"{requests[i].arm.label}: {answer}"))
            else:
                collector.add(i, cut_generation(answer, requests[i].stop_strings))

    model.generate_each(server_requests, on_answer)
    return collector.results()


def arm_config(arm: Arm) -> dict[str, Any]:
    """The config of an arm, as an experiment file would write it.

    Raises:
        PlanError: The arm has a sampler, a part, a judge or logits processors that cannot be sent to a server.
    """
    node: dict[str, Any] = describe(arm.strategy)
    if arm.logits_processors:
        raise PlanError("logits processors cannot be sent to a server. Use the model 'hf'.")
    if arm.acts_in != "both":
        raise PlanError(f"acts_in: {arm.acts_in} cannot be sent to a server. Use the model 'hf', or remove acts_in.")
    if arm.traits.judge_model is not None:
        raise PlanError(f"{arm.label}: judge_model cannot be sent to a server. Use the model 'hf'.")
    if arm.sampler == arm.strategy.sampler:
        return node
    if isinstance(arm.sampler, Sampling):
        sampling = describe(arm.sampler)
        return node | {"sampling": {key: value for key, value in sampling.items() if key != "name"}}
    if isinstance(arm.sampler, Greedy):
        return node | {"sampling": {"temperature": 0}}
    raise PlanError(f"the sampler {type(arm.sampler).__name__} cannot be sent to a server. Use Sampling.")


def _server_request(request: DecodingRequest) -> Request:
    reads_paired_prompt = request.arm.traits.reads_paired_prompt
    return Request(
        request.prompt if reads_paired_prompt else replace(request.prompt, paired_prompt=None),
        request.options,
        request.max_new_tokens,
        score_options=request.answer_mode == "options",
        strategy=arm_config(request.arm),
        normalize=request.normalize,
        top=request.top_logprobs,
        max_thinking_tokens=request.max_thinking_tokens,
        reasoning=request.reasoning,
    )


def _key(request: DecodingRequest, server_request: Request) -> str:
    """Requests with equal keys have equal answers. Branches may depend on the random stream (noise on an image)."""
    strategy, stream = request.arm.strategy, request.prompt.key
    is_deterministic = (
        branch_count(strategy) == 1
        and not strategy.traits.draws_random_numbers
        and (server_request.score_options or request.arm.sampler.deterministic)
    )
    if server_request.score_options:
        settings: list[Any] = [server_request.options, server_request.normalize, server_request.reasoning]
    else:
        settings = [server_request.max_new_tokens, server_request.max_thinking_tokens, server_request.top]
    paired_prompt = server_request.prompt.paired_prompt
    return json.dumps(
        [
            request.answer_mode,
            request.prompt.digest,
            "" if paired_prompt is None else paired_prompt.digest,
            server_request.strategy,
            settings,
            None if is_deterministic else [stream.seed, stream.query],
        ],
        sort_keys=True,
    )
