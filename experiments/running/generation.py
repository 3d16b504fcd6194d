"""Answer many prompts at once: by a decoding engine if the model runs strategies, else by plain requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from decoding import Counters, DecodingRequest, Failure, parse_arm
from experiments.contexts.contexts import PromptItem
from experiments.grid.grid import Cell
from icl import Generation, Model, Prompt, Request

Answer = Generation | str
"""What a model generated, or why there is no answer."""


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """The request for one sample: a prompt in one of the cells that share it."""

    cell: Cell
    item: PromptItem
    prompt: Prompt

    @property
    def options(self) -> tuple[str, ...]:
        """The options to score; empty if the answer is generated."""
        return self.item.example.options if self.cell.answer_mode == "options" else ()


AnswerCallback = Callable[[SampleRequest, Answer], None]


def answer(
    model: Model,
    requests: Sequence[SampleRequest],
    counters: Counters,
    on_answer: AnswerCallback,
    *,
    top_logprobs: int = 0,
    **settings: Any,
) -> None:
    """Answers requests on one model.

    Args:
        model: The model, loaded.
        requests: In any cells of the model.
        counters: Receives the engine's counts.
        on_answer: Called with each request and its answer as soon as there is one, in any order.
        top_logprobs: See `decoding.engine.requests.DecodingRequest`.
        settings: See `decoding.engine.engine.run_requests`, of models with sessions. Other engines ignore them.
    """
    if requests and "strategies" in model.abilities:
        _through_engine(model, requests, counters, on_answer, top_logprobs)
    elif requests and "logits" in model.abilities:
        _through_engine(model, requests, counters, on_answer, top_logprobs, **settings)
    elif requests:
        _through_model(model, requests, on_answer)


def _through_engine(
    model: Any,
    requests: Sequence[SampleRequest],
    counters: Counters,
    on_answer: AnswerCallback,
    top_logprobs: int,
    **options: Any,
) -> None:
    decoding_requests = [
        DecodingRequest(
            request.prompt,
            request.cell.decoding,
            request.options,
            request.cell.answer_mode,
            request.cell.max_new_tokens,
            top_logprobs=top_logprobs,
            stop_strings=request.cell.stop_strings,
            max_thinking_tokens=request.cell.max_thinking_tokens,
            intervene=request.cell.steering,
        )
        for request in requests
    ]

    def on_result(i: int, result: Generation | Failure) -> None:
        on_answer(requests[i], result.reason if isinstance(result, Failure) else result)

    engine_for(model)(model, decoding_requests, counters, **options, on_result=on_result)


def answer_prompts(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, on_answer: Callable[[int, Answer], None]
) -> None:
    """Answers prompts greedily on a loaded model. Calls `on_answer` with the index of each prompt, in any order."""
    if not model.abilities & {"logits", "strategies"}:
        model.generate_each([Request(prompt, max_new_tokens=max_new_tokens) for prompt in prompts], on_answer)
        return
    arm = parse_arm("greedy")
    requests = [DecodingRequest(prompt, arm, max_new_tokens=max_new_tokens) for prompt in prompts]

    def on_result(i: int, result: Generation | Failure) -> None:
        on_answer(i, result.reason if isinstance(result, Failure) else result)

    engine_for(model)(model, requests, on_result=on_result)


def engine_for(model: Model) -> Callable[..., Any]:
    """`run_requests` of the engine for this model: on its server, inside vLLM, or the token loop."""
    if "strategies" in model.abilities and model.is_endpoint:
        from decoding.engine.server_engine import run_requests as run_on_server

        return run_on_server
    if "strategies" in model.abilities:
        from decoding.lockstep.engine import run_requests as run_in_vllm

        return run_in_vllm
    from decoding.engine.engine import run_requests

    return run_requests


def _through_model(model: Model, requests: Sequence[SampleRequest], on_answer: AnswerCallback) -> None:
    """Sends equal requests once, unless the model reads more than the prompt (an oracle, a fake)."""
    groups: dict[Any, list[tuple[SampleRequest, Prompt]]] = {}
    for i, (request, prompt) in enumerate(_with_prompts(model, requests, on_answer)):
        cell = request.cell
        limits = cell.max_new_tokens, cell.max_thinking_tokens
        key = (prompt.digest, request.item.example.options, limits, cell.answer_mode)
        groups.setdefault(i if model.needs else key, []).append((request, prompt))
    equal_requests = list(groups.values())

    def on_result(i: int, result: Answer) -> None:
        for request, _ in equal_requests[i]:
            on_answer(request, _cut(result, request.cell.stop_strings))

    model.generate_each([_model_request(model, *group[0]) for group in equal_requests], on_result)


def _with_prompts(
    model: Model, requests: Sequence[SampleRequest], on_answer: AnswerCallback
) -> list[tuple[SampleRequest, Prompt]]:
    """Each request with the prompt that the model answers, which some strategies rewrite. Failures are reported."""
    rewriting = [one for one in requests if one.cell.decoding.strategy.traits.rewrites_prompt]
    if not rewriting:
        return [(request, request.prompt) for request in requests]
    from decoding.engine.result_collector import rewritten_prompts

    prompts = rewritten_prompts(model, [(one.prompt, one.cell.decoding) for one in rewriting])
    by_request: dict[SampleRequest, Prompt] = {request: request.prompt for request in requests}
    for request, prompt in zip(rewriting, prompts, strict=True):
        if isinstance(prompt, Prompt):
            by_request[request] = prompt
        else:
            del by_request[request]
            on_answer(request, prompt)
    return list(by_request.items())


def _cut(result: Answer, stop_strings: Sequence[str]) -> Answer:
    """The answer of a model that does not know stop strings, without the text from the first one on."""
    if isinstance(result, str) or not stop_strings:
        return result
    from decoding.engine.hypotheses import cut_generation

    return cut_generation(result, stop_strings)


def _model_request(model: Model, request: SampleRequest, prompt: Prompt) -> Request:
    demos = request.item.context.demos if "demos" in model.needs else ()
    return Request(
        prompt,
        request.item.example.options,
        request.cell.max_new_tokens,
        tuple((demo.example, demo.score) for demo in demos),
        request.item.example.answers if "gold" in model.needs else (),
        request.cell.answer_mode == "options",
        max_thinking_tokens=request.cell.max_thinking_tokens,
    )
