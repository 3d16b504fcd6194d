"""What is asked of an engine, and what it says: prompts in groups, each group decoding one output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icl.types import Prompt


@dataclass(frozen=True)
class EngineRequest:
    """A prompt and what travels with it. extra: a branch's own arguments; none for a prompt that is read by itself.

    stops: whether the model's end-of-text tokens end the answer.
    """

    prompt: Prompt
    max_new_tokens: int
    extra: Mapping[str, str] = field(default_factory=dict)
    stops: bool = True


@dataclass(frozen=True)
class EngineOutput:
    """tokens: with the one that stopped it. finish: stop, length, abort or error. reason: of an error.

    prompt_tokens, cached_tokens: read, and of these found in the prefix cache.
    """

    tokens: tuple[int, ...] = ()
    finish: str = "error"
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0


def output_from_vllm(output: Any) -> EngineOutput:
    """What vLLM's last output of a request says."""
    one = output.outputs[0]
    reason = str(one.stop_reason or "") if one.finish_reason == "error" else ""
    read = len(output.prompt_token_ids)
    return EngineOutput(tuple(one.token_ids), str(one.finish_reason), reason, read, output.num_cached_tokens or 0)
