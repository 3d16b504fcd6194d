"""Options after reasoning ("think, then choose"): the model reasons under its thinking budget, then options are scored.

    P <think> a b c </think> | red | blue      reasoning by the arm, the end of its block, the options

The arm itself reasons: its strategy with all branches, its sampler and its logits processors. An arm that can only
score options reasons greedily. All branches then read the same reasoning. It is tokenized again with the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from decoding.arms.arm import Arm
from decoding.arms.greedy import GreedyDecoding
from decoding.engine.requests import Counters, DecodingRequest, Failure
from icl import Generation, Usage
from icl.text.reasoning_blocks import reasoning_text

RunRequests = TypeVar("RunRequests", bound=Callable[..., list[Generation | Failure]])


def with_reasoned_options(run_requests: RunRequests) -> RunRequests:
    """Decorator of an engine's `run_requests`: the model reasons before it chooses among options."""

    @wraps(run_requests)
    def run_with_reasoning(
        model: Any,
        requests: Sequence[DecodingRequest],
        counters: Counters | None = None,
        *,
        on_result: Callable[[int, Generation | Failure], None] | None = None,
        **settings: Any,
    ) -> list[Generation | Failure]:
        reasons = [request.answer_mode == "options" and request.max_thinking_tokens is not None for request in requests]
        if not any(reasons):
            return run_requests(model, requests, counters, on_result=on_result, **settings)
        counters = Counters() if counters is None else counters
        work, places = Counters(), [i for i, does in enumerate(reasons) if does]
        thoughts = run_requests(model, [_reasoning_request(requests[i]) for i in places], work, **settings)
        counters.prompts_prepared += len(places)
        counters.add_work(work)
        by_place = dict(zip(places, thoughts, strict=True))
        results: dict[int, Generation | Failure] = {}

        def add(i: int, result: Generation | Failure) -> None:
            thought = by_place.get(i)
            if isinstance(thought, Generation) and isinstance(result, Generation):
                result = _with_thought(result, thought)
            results[i] = result
            if on_result is not None:
                on_result(i, result)

        rest: list[tuple[int, DecodingRequest]] = []
        for i, request in enumerate(requests):
            thought = by_place.get(i)
            if isinstance(thought, Failure):
                add(i, thought)
            elif thought is None:
                rest.append((i, request))
            else:
                reasoning = reasoning_text(thought.text) if thought.thinking else ""
                rest.append((i, replace(request, reasoning=reasoning, max_thinking_tokens=None)))
        run_requests(
            model,
            [request for _, request in rest],
            counters,
            on_result=lambda place, result: add(rest[place][0], result),
            **settings,
        )
        return [results[i] for i in range(len(requests))]

    return cast("RunRequests", run_with_reasoning)


def _reasoning_request(request: DecodingRequest) -> DecodingRequest:
    """The request for the reasoning. One token of an answer is decoded after it."""
    arm = Arm(GreedyDecoding()) if request.arm.traits.requires_options else request.arm
    return replace(request, arm=arm, options=(), answer_mode="generate", max_new_tokens=1, stop_strings=())


def _with_thought(choice: Generation, thought: Generation) -> Generation:
    """The choice, with its reasoning and the usage of both."""
    one, other = choice.usage, thought.usage
    usage = Usage(
        one.prompt_tokens, one.new_tokens + other.new_tokens, one.forwards + other.forwards, other.thinking_tokens
    )
    reasoning = reasoning_text(thought.text) if thought.thinking else ""
    return replace(choice, reasoning=reasoning, thinking=thought.thinking, usage=usage)
