"""A model with recurrent layers: its answers equal a plain forward pass, with and without groups.

Prompts are longer than a block of the prefix cache, so that stored states are read. The cache is small, so that
requests are preempted. In bfloat16, the only precision of the gated delta rule in vLLM on a CPU, logits differ by a few
hundredths.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from reference import Reference
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from icl.streams import StreamKey
from icl.types import Generation, Prompt
from tests.random_models.twins.twin import save_twin

TOLERANCE = 0.1
"""Of a logit in bfloat16. The standard deviation of the logits is about 1."""
OPTIONS = ("red", "blue or so")
BLOCK = 288
"""Tokens of a block of the cache, as many as have the size of a state."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_twin("qwen3_5", tmp_path_factory.mktemp("twin") / "qwen3_5", own_template=True)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, TOLERANCE)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[groups.Watched]:
    settings = {"max_num_seqs": 16, "max_num_batched_tokens": 400, "num_gpu_blocks_override": 32}
    made = groups.Watched(str(folder), max_model_len=1024, max_images=4, cache_gib=0.25, engine_args=settings)
    made.expect_prompts(3, 900, 1)
    yield made
    made.unload()


def prompts(model: groups.Watched, count: int) -> list[Prompt]:
    """Prompts of two or three blocks, which begin alike. Each fills its blocks up to a few tokens, the first to one."""
    lengths = [model.count_tokens(prompt) for prompt in _prompts([0] * count)]
    return _prompts([(1 - 3 * (i // 3 % 3) - length) % BLOCK for i, length in enumerate(lengths)])


def _prompts(padding: list[int]) -> list[Prompt]:
    tiny, made = checkpoints.tiny_models(), []
    for i, length in enumerate(padding):
        turns = []
        for demo in range(1 + i % 2):
            text = f"demonstration {demo} " + "abcdefgh " * 16
            turns += [tiny.turn("user", tiny.image(demo, (56, 56)), text), tiny.turn("assistant", f"shape {demo}")]
        query = tiny.turn("user", tiny.image(9, (56, 56)), f"question {i:02}?" + "z" * length)
        made.append(Prompt((*turns, query), StreamKey(0, f"q{i}")))
    return made


def check(model: groups.Watched, reference: Reference, requests: list[DecodingRequest]) -> None:
    """Runs the requests twice, so that the second time finds stored states, and compares every token."""
    cached = model.counters()["cached_tokens"] if "engine" in vars(model) else 0
    logits_of: dict[tuple[int, tuple[int, ...]], list[Tensor]] = {}
    for _ in range(2):
        steps = decided = 0
        for i, (request, answer) in enumerate(zip(requests, groups.run_requests(model, requests), strict=True)):
            assert isinstance(answer, Generation), answer
            stops = model.stop_tokens if answer.finish == "stop" else frozenset()
            how = (request.prompt, request.arm, answer.tokens)
            if (i, answer.tokens) not in logits_of:
                logits_of[i, answer.tokens] = reference.read(*how)
            read = logits_of[i, answer.tokens]
            compared = reference.compare(*how, stops, read=read)
            assert compared.equal == compared.decided, (request.arm.label, answer.tokens, compared)
            distance = reference.distance(*how, answer.trace["logprob"], read=read)
            assert distance < 4 * TOLERANCE
            steps, decided = steps + compared.steps, decided + compared.decided
        assert decided > 0.3 * steps
    assert model.counters()["cached_tokens"] > cached


def requests_of(model: groups.Watched, arms: tuple[Any, ...], count: int) -> list[DecodingRequest]:
    parsed = [parse_arm(arm) for arm in arms]
    return [
        DecodingRequest(prompt, parsed[i % len(arms)], max_new_tokens=8)
        for i, prompt in enumerate(prompts(model, count))
    ]


def test_prompts_that_decode_alone_run_under_the_scheduler_of_vllm(model: groups.Watched, reference: Reference) -> None:
    check(model, reference, requests_of(model, ("greedy", {"name": "greedy", "sampling": {"temperature": 0.7}}), 6))
    assert type(model.scheduler).__name__ == "PlainScheduler"
    assert model.scheduler.cache_config.mamba_cache_mode == "align"
    assert model.scheduler.block_size == BLOCK
    chosen = [model.before_answer(prompt) for prompt in prompts(model, 2)]
    scored = [DecodingRequest(prompt, parse_arm("greedy"), OPTIONS, "options") for prompt in chosen]
    for request, answer in zip(scored, groups.run_requests(model, scored), strict=True):
        assert isinstance(answer, Generation), answer
        for option, ids in zip(OPTIONS, model.option_ids(request.prompt, OPTIONS), strict=True):
            logprobs = reference.logits(request.prompt, ids[:-1]).log_softmax(-1)
            expected = sum(float(logprobs[step, token]) for step, token in enumerate(ids))
            assert answer.option_scores[option] == pytest.approx(expected, abs=TOLERANCE * len(ids))


def test_the_first_group_restarts_the_engine_and_groups_read_stored_states(
    model: groups.Watched, reference: Reference
) -> None:
    """After the test above."""
    check(model, reference, requests_of(model, ("greedy", groups.ARMS[0], groups.ARMS[1]), 12))
    assert type(model.scheduler).__name__ == "LockstepScheduler"
    assert model.scheduler.counts["preempted"] + model.scheduler.counts["partly preempted"] > 0
    assert model.scheduler.counts["shortened hits"] > 0
    assert model.scheduler.counts["violations"] == 0
