"""A real engine at its limits: sixteen branches in one group, and a group that is too large for the cache."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from reference import Reference

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest, Failure
from icl.types import Generation, Part, Prompt, Turn

TOO_SMALL = (
    r"its 16 branches need (\d+) blocks of 32 tokens together, and the cache of this engine has (\d+)\. "
    r"16 branches of (\d+) tokens each fit, prompt and answer: shorten"
)
SIXTEEN: dict[str, Any] = {"name": groups.SPREAD, "branch_count": 16}


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[groups.Watched]:
    """An engine with 80 blocks of 32 tokens."""
    made = groups.tiny_engine(folder, num_gpu_blocks_override=81)
    yield made
    made.unload()


def prompt_of(demos: int, query: str, words: str = "what?") -> Prompt:
    """A question about an image after text demonstrations, so that each branch with fewer of them is shorter."""
    turns = [
        Turn(role, (Part(text, f"demo[{i}].{kind}"),))
        for i in range(demos)
        for role, text, kind in (("user", f"{words} {i}", "question"), ("assistant", "red", "answer"))
    ]
    prompt: Prompt = checkpoints.tiny_models().prompt([3], "how many?", query)
    return replace(prompt, turns=(*turns, *prompt.turns))


def test_sixteen_branches_of_unequal_length_decode_as_the_strategy_defines(
    engine: groups.Watched, folder: Path
) -> None:
    requests = [
        DecodingRequest(prompt_of(14, f"q{i}", words), parse_arm(SIXTEEN | sampling), max_new_tokens=8)
        for i, words in enumerate(("a", "b", "it"))
        for sampling in ({}, {"sampling": {"temperature": 0.8}})
    ]
    assert len({engine.count_tokens(branch) for branch in requests[0].arm.strategy.branches(requests[0].prompt)}) == 16
    answers = groups.run_requests(engine, requests)
    assert {len(outputs) for outputs in engine.group_outputs[-len(requests) :]} == {16}
    assert all(len({one.tokens for one in outputs}) == 1 for outputs in engine.group_outputs)
    reference = Reference(folder)
    steps = decided = 0
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Generation), answer.reason
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        compared = reference.compare(request.prompt, request.arm, answer.tokens, stops)
        assert compared.equal == compared.decided, (request.arm.label, compared)
        steps, decided = steps + compared.steps, decided + compared.decided
    assert decided > 0.9 * steps


def test_a_group_too_large_for_the_cache_fails_alone_and_the_message_says_what_fits(engine: groups.Watched) -> None:
    large = [DecodingRequest(prompt_of(14, "large", "a long question"), parse_arm(SIXTEEN), max_new_tokens=4)]
    others = groups.decoding_requests(6, 6, seed=91, arms=["greedy", groups.ARMS[0]])
    failed, *fine = groups.run_requests(engine, large + others, trace=False)
    assert isinstance(failed, Failure)
    numbers = re.search(TOO_SMALL, failed.reason)
    assert numbers, failed.reason
    needed, there, fits = map(int, numbers.groups())
    assert needed > there == 80
    assert all(isinstance(answer, Generation) for answer in fine), fine
    short = prompt_of(1, "short", "w")
    assert engine.count_tokens(short) + 8 <= fits
    (answer,) = groups.run_requests(engine, [DecodingRequest(short, parse_arm(SIXTEEN), max_new_tokens=8)])
    assert isinstance(answer, Generation)
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == there
