"""vLLM engines of the checks, and their comparison with the backend `hf`."""

import os
from collections.abc import Sequence
from typing import Any

from decoding.arms.arm import Arm
from decoding.engine.requests import DecodingRequest
from icl.models.vllm.model import VLLM
from icl.types import Generation, Prompt
from lab.gpu.check import Bench

CROSS_ENGINE_GAP = 1e-2
"""Smallest difference of the two best log-probabilities, in float32, at which two engines must agree."""

TIGHT_TOKENS, TIGHT_SEQUENCES, TIGHT_CACHE_TOKENS = 64, 16, 1056
"""Prompts are computed in chunks, and a few groups fill the KV cache, so that requests are preempted."""


def engine(bench: Bench, path: str, **settings: Any) -> VLLM:
    """A model whose engine has started. On a CPU it is small."""
    room: dict[str, Any] = {"max_model_len": 1024, "max_images": 8}
    if bench.device == "cpu":
        room["cache_gib"] = 0.25
    model = VLLM(path, **(room | settings))
    model.load()
    return model


def tight_args(model_args: dict[str, Any], block_size: int) -> dict[str, Any]:
    """Engine arguments of a small KV cache."""
    return {
        "max_num_batched_tokens": TIGHT_TOKENS,
        "max_num_seqs": TIGHT_SEQUENCES,
        "num_gpu_blocks_override": TIGHT_CACHE_TOKENS // block_size,
        **model_args,
    }


def use_one_process() -> None:
    """Keeps vLLM's engine in this process, where its scheduler can be read. Called before vllm is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def decode_in_engine(model: VLLM, prompts: Sequence[Prompt], arms: Sequence[Arm], length: int) -> list[Generation]:
    """The answers of all arms to all prompts. Raises ModelError if one fails."""
    from decoding.lockstep.engine import run_requests
    from lab.gpu.workload import answers_of

    requests = [DecodingRequest(prompt, arm, max_new_tokens=length) for prompt in prompts for arm in arms]
    return answers_of(run_requests(model, requests, trace=model.trace))


def equal_answers(expected: Sequence[Generation], answers: Sequence[Generation]) -> int:
    """Answers that equal the expected ones up to the first step that is not decided."""
    from lab.gpu.workload import undecided_or_equal

    pairs = zip(expected, answers, strict=True)
    return sum(undecided_or_equal(one, other.tokens, CROSS_ENGINE_GAP) for one, other in pairs)


def forget(model: VLLM) -> None:
    """Clears the caches of prompts and images."""
    llm: Any = model.engine.llm  # type: ignore[union-attr]  # checks of speed run one engine
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()
