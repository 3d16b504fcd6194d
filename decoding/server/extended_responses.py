"""A request that asks for more than a text: decoded as in an engine in the process, answered with all that it left.

Tokens, traces and option scores come with the answer, so that the model `remote` gives what the model `vllm` gives.
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


async def answered(desk: StrategyServer, asked: StrategyRequest, name: str, seat: Placement) -> dict[str, Any]:
    """The fields of a chat completion. name: of its groups. Raises ICLError and RefusedError."""
    more = asked.more or ExtendedOptions()
    branches = tuple(await desk.branches(asked, seat))
    given = [await desk.inputs.of_async(branch) for branch in branches]
    lengths = tuple(len(made["prompt_token_ids"]) for made in given)
    room = max(desk.longest - max(lengths), 1)
    limit = min(asked.max_tokens or room, room)
    score: Any = "options" if more.options else "generate"
    arm = asked.arm if more.normalize is None else replace(asked.arm, normalize=more.normalize)
    job = DecodingRequest(asked.prompt, arm, more.options, score, limit, more.top)
    ready = PreparedRequest(job, branches, ("",) * len(branches), lengths)
    groups = await asyncio.to_thread(build_groups, ready, desk.hf, name, more.trace)
    tasks = [
        asyncio.ensure_future(desk.whole(made, ask, f"{group.name or name}-{b}", seat))
        for group in groups
        for b, (made, ask) in enumerate(zip(given, group.requests, strict=False))
    ]
    try:
        said = list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if any(one.finish == "abort" for one in said):
        raise HTTPError(503, "the engine ended the request: it is stopping, or was told to.")
    kept = await desk.take_records([group.name for group in groups if group.name])
    heard, rest = [], iter(said)
    for group in groups:
        heard.append((group, [next(rest) for _ in group.requests]))
    answer = build_answer(ready, desk.hf, heard, kept)
    if isinstance(answer, Failure):
        raise HTTPError(400, answer.reason)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": answer.finish,
        "icl": asdict(answer),
    }
    return {"choices": [choice], "usage": usage(said, answer.usage.new_tokens)}


def usage(said: list[EngineOutput], new: int) -> dict[str, Any]:
    """Tokens read by all branches, those of them that the prefix cache had, and tokens of the answer."""
    read, cached = sum(one.prompt_tokens for one in said), sum(one.cached_tokens for one in said)
    details = {"cached_tokens": cached}
    return {
        "prompt_tokens": read,
        "completion_tokens": new,
        "total_tokens": read + new,
        "prompt_tokens_details": details,
    }
