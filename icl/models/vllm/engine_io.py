"""Inputs and outputs of an engine: prompts in groups, where each group decodes one output."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from icl.types import Prompt


@dataclass(frozen=True)
class EngineRequest:
    """A prompt for the engine.

    Attributes:
        prompt: The prompt.
        max_new_tokens: Maximum number of new tokens.
        extra: `extra_args` of a branch; empty for an ordinary request.
        stops: Whether the model's end-of-text tokens end the answer.
    """

    prompt: Prompt
    max_new_tokens: int
    extra: Mapping[str, str] = field(default_factory=dict)
    stops: bool = True


@dataclass(frozen=True)
class EngineOutput:
    """The final output of an engine request.

    Attributes:
        tokens: New tokens, with the stop token.
        finish: stop, length, abort or error.
        reason: Reason of an error.
        prompt_tokens: Number of prompt tokens.
        cached_tokens: Number of prompt tokens that were in the prefix cache.
    """

    tokens: tuple[int, ...] = ()
    finish: str = "error"
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0


def output_from_vllm(output: Any) -> EngineOutput:
    """The output of vLLM's last `RequestOutput` of a request."""
    completion = output.outputs[0]
    reason = str(completion.stop_reason or "") if completion.finish_reason == "error" else ""
    return EngineOutput(
        tuple(completion.token_ids),
        str(completion.finish_reason),
        reason,
        len(output.prompt_token_ids),
        output.num_cached_tokens or 0,
    )


def sampling_params(request: EngineRequest, stop_tokens: Iterable[int]) -> Any:
    """vLLM's SamplingParams of a request, with all its tokens in one final output."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=request.max_new_tokens,
        stop_token_ids=sorted(stop_tokens) if request.stops else [],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=dict(request.extra) or None,
    )
