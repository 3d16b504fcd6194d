"""Several engines of one model: every group runs in one of them, with the answers of a single engine."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups

from decoding.engine.requests import Failure
from icl.models.vllm.engine import Replicas
from icl.models.vllm.model import VLLM

SETTINGS: dict[str, Any] = {
    "max_model_len": 512,
    "max_images": 4,
    "cache_gib": 0.25,
    "engine_args": {"max_num_seqs": 16, "max_num_batched_tokens": 256},
}


def test_two_engines_share_the_work_and_give_the_answers_of_one() -> None:
    folder = checkpoints.shared("llava")
    requests = groups.decoding_requests(60, 6, seed=51)
    single, double = VLLM(str(folder), **SETTINGS), VLLM(str(folder), data_parallel_size=2, **SETTINGS)
    assert single.digest == double.digest
    indices: list[int] = []
    try:
        answers = groups.run_requests(double, requests, on_result=lambda i, answer: indices.append(i))
        assert isinstance(double.engine, Replicas)
        each = [engine.counts["requests"] for engine in double.engine.engines]
    finally:
        double.unload()
    expected = groups.run_requests(single, requests)
    num_requests = single.counters()["requests"]
    single.unload()
    assert not any(isinstance(answer, Failure) for answer in answers)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    assert all(answer.trace for answer in answers)
    assert sorted(indices) == list(range(len(requests)))
    assert min(each) > 0
    assert sum(each) == num_requests
