"""An engine that is started for planned prompts, and prompts that exceed the plan."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest, Failure
from icl.models.vllm.model import VLLM
from icl.types import Generation

SETTINGS: dict[str, Any] = {
    "cache_gib": 0.25,
    "engine_args": {"max_num_seqs": 16, "max_num_batched_tokens": 256},
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture
def model(folder: Path) -> Iterator[VLLM]:
    made = VLLM(str(folder), **SETTINGS)
    yield made
    made.unload()


def test_larger_prompts_than_planned_restart_the_engine_and_lose_nothing(model: VLLM, folder: Path) -> None:
    tiny = checkpoints.tiny_models()
    prompts = [tiny.prompt([i], "what?", f"q{i}") for i in range(4)]
    prompts += [tiny.prompt([1], "very long " * 40, "long"), tiny.prompt([2, 3, 4], "and?", "many")]
    requests = [
        DecodingRequest(prompt, parse_arm(arm), max_new_tokens=5)
        for prompt in prompts
        for arm in ("greedy", groups.ARMS[0])
    ]
    model.expect_prompts(1, 60, 2)
    model.load()
    assert model.engine.max_model_len == 256
    answers = groups.run_requests(model, requests)
    assert model.engine.max_model_len == model.max_tokens
    assert not model.engine.is_planned
    assert model.counters()["requests"] == len(prompts) * 3
    roomy = groups.tiny_engine(folder)
    expected = groups.run_requests(roomy, requests)
    roomy.unload()
    assert all(isinstance(answer, Generation) and answer.trace for answer in answers), answers
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    (refused,) = groups.run_requests(model, [DecodingRequest(tiny.prompt([1], "x" * 20_000), parse_arm("greedy"))])
    assert isinstance(refused, Failure)
    assert str(model.max_tokens) in refused.reason
