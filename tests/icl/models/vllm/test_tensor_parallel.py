"""One engine of two workers, each with half of every layer: groups stay together, faults and traces arrive."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from reference import Reference

from decoding.engine.requests import Failure
from icl.models.vllm.model import VLLM
from icl.types import Generation

POISON = {"name": f"{Path(groups.__file__).with_name('poison.py')}:Poison", "branch_count": 2}


def test_two_workers_give_the_tokens_of_plain_forward_passes() -> None:
    folder = checkpoints.shared("llava")
    settings = {"max_num_seqs": 16, "max_num_batched_tokens": 128}
    model = VLLM(
        str(folder), tensor_parallel_size=2, max_model_len=512, max_images=4, cache_gib=0.25, engine_args=settings
    )
    requests = groups.decoding_requests(20, 8, arms=["greedy", *groups.ARMS[:3], POISON])
    try:
        answers = groups.run_requests(model, requests)
        assert model.engine.llm.llm_engine.vllm_config.parallel_config.tensor_parallel_size == 2
    finally:
        model.unload()
    reference = Reference(folder)
    steps = decided = failed = 0
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, Failure):
            assert "step 2: the combined scores of Poison rule out every token" in answer.reason
            failed += 1
            continue
        assert isinstance(answer, Generation)
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        if "Poison" in request.arm.label:
            assert answer.finish == "stop"
            assert len(answer.tokens) < 2
        else:
            compared = reference.compare(request.prompt, request.arm, answer.tokens, stops)
            assert compared.equal == compared.decided, (request.arm.label, compared)
            steps, decided = steps + compared.steps, decided + compared.decided
        assert len(answer.trace["gap"]) == len(answer.tokens) + bool(stops)
    assert decided > 0.9 * steps
    assert failed > 0
