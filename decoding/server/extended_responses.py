"""Responses to requests with the key `icl`: the answer with its tokens, traces and option scores.

The model `remote` sends such requests, and so gets what the model `vllm` gives.
"""

import asyncio
from dataclasses import asdict, replace
from typing import Any

from decoding.engine.requests import DecodingRequest, Failure, PreparedRequest
from decoding.lockstep.grouping import build_answer, build_groups
from decoding.server.http import HTTPError
from decoding.server.placement import Placement
from decoding.server.request_parsing import ExtendedOptions, StrategyRequest
from decoding.server.strategy_server import StrategyServer
from icl.models.vllm.engine_io import EngineOutput


async def extended_response(
    server: StrategyServer, request: StrategyRequest, name: str, placement: Placement
) -> dict[str, Any]:
    """The fields of a chat completion.

    Args:
        server: The server.
        request: The request.
        name: Prefix of the names of its groups.
        placement: Adapter and engine of the request.

    Raises:
        ICLError: The request cannot be decoded.
        HTTPError: The engine refuses or fails.
    """
    extended = request.extended or ExtendedOptions()
    made, note = await server.branches(request, placement)
    branches = tuple(made)
    if extended.options:
        branches = await asyncio.to_thread(lambda: tuple(map(server.hf.before_answer, branches)))
    inputs = [await server.inputs.of_async(branch) for branch in branches]
    lengths = tuple(len(branch_input["prompt_token_ids"]) for branch_input in inputs)
    room = max(server.max_model_len - max(lengths), 1)
    limit = min(request.max_tokens or room, room)
    answer_mode: Any = "options" if extended.options else "generate"
    arm = request.arm if extended.normalize is None else replace(request.arm, normalize=extended.normalize)
    decoding = DecodingRequest(
        request.prompt,
        arm,
        extended.options,
        answer_mode,
        limit,
        extended.top,
        max_thinking_tokens=request.max_thinking_tokens,
    )
    prepared = PreparedRequest(decoding, branches, ("",) * len(branches), lengths, note)
    groups = await asyncio.to_thread(build_groups, prepared, server.hf, name, extended.trace)
    tasks = [
        asyncio.ensure_future(server.run_request(branch_input, engine_request, f"{group.name or name}-{b}", placement))
        for group in groups
        for b, (branch_input, engine_request) in enumerate(zip(inputs, group.requests, strict=False))
    ]
    try:
        outputs = list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if any(output.finish == "abort" for output in outputs):
        raise HTTPError(503, "the engine ended the request, because it is stopping or the request was aborted.")
    records = await server.take_records([group.name for group in groups if group.name])
    remaining = iter(outputs)
    group_outputs = [(group, [next(remaining) for _ in group.requests]) for group in groups]
    answer = build_answer(prepared, server.hf, group_outputs, records)
    if isinstance(answer, Failure):
        raise HTTPError(400, answer.reason)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": answer.finish,
        "icl": asdict(answer),
    }
    return {"choices": [choice], "usage": _usage(outputs, answer.usage.new_tokens)}


def _usage(outputs: list[EngineOutput], new_tokens: int) -> dict[str, Any]:
    """Prompt tokens of all branches, those of them in the prefix cache, and tokens of the answer."""
    prompt_tokens = sum(output.prompt_tokens for output in outputs)
    cached_tokens = sum(output.cached_tokens for output in outputs)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
