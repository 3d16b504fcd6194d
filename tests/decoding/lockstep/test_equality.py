"""Real vLLM on a CPU: branches always agree, and tokens are the strategy's own wherever a step is decided."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from reference import Reference

from decoding.engine.requests import DecodingRequest, Failure
from icl.types import Generation

SIZES = ("100", "136") if {"ICL_TEST_MATRIX", "ICL_TEST_RUNNER"} & os.environ.keys() else ("50", "68")
"""Requests of a roomy and a tight engine. The larger numbers are those of `make test-vllm-long`."""
NUM_REQUESTS, LENGTH = int(os.environ.get("ICL_TEST_REQUESTS", SIZES[0])), 12
TIGHT_REQUESTS, TIGHT_LENGTH = int(os.environ.get("ICL_TEST_TIGHT_REQUESTS", SIZES[1])), 40
GROUPS = TIGHT_REQUESTS * 100 // 136
"""At least GROUPS of TIGHT_REQUESTS have two branches or more."""

STOPS = frozenset(checkpoints.STOPS)
TIGHT = {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 33, "max_num_seqs": 16}
"""Prompts of up to 250 tokens are computed in chunks of at most 64, and a few groups fill the cache."""

TIGHT_ARMS = ("greedy", *groups.ARMS[:2], groups.ARMS[3])
"""Without traces, greedy is an ordinary request."""


NAMES = [("llava", "tight"), ("qwen2_5_vl", "roomy"), ("llava", "roomy"), ("qwen2_5_vl", "tight")]
if "ICL_TEST_MATRIX" not in os.environ and "ICL_TEST_RUNNER" not in os.environ:
    NAMES = NAMES[:2]  # both settings and both architectures; `make test-vllm-long` has all four
CASES = [(architecture, room == "tight") for architecture, room in NAMES]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    return checkpoints.shared(request.param)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def check(reference: Reference, requests: list[DecodingRequest], answers: list[Any], least: float) -> str:
    """The figures of a comparison that holds."""
    steps = decided = equal = 0
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Generation), answer.reason
        compared = reference.compare(
            request.prompt, request.arm, answer.tokens, STOPS if answer.finish == "stop" else frozenset()
        )
        assert compared.equal == compared.decided, (request.arm.label, answer.tokens, compared)
        assert {len(values) for values in answer.trace.values()} <= {len(answer.tokens) + (answer.finish == "stop")}
        steps, decided, equal = steps + compared.steps, decided + compared.decided, equal + compared.equal
    assert decided / steps > least
    share = f"{steps} steps, {decided / steps:.2%} decided by more than {reference.tolerance} of a logit"
    return f"{share}, {equal} of these {decided} equal the strategy's own token"


def agreed(engine: groups.Watched) -> float:
    group_outputs = engine.group_outputs
    return sum(len({one.tokens for one in outputs}) == 1 for outputs in group_outputs) / len(group_outputs)


@pytest.mark.parametrize(("folder", "tight"), CASES, indirect=["folder"], ids=["-".join(case) for case in NAMES])
def test_branches_agree_and_tokens_are_the_strategys_own(
    folder: Path, reference: Reference, tight: bool, record_property: Callable[[str, object], None]
) -> None:
    """Tight: chunks, preemption, ordinary requests between the groups. Roomy: up to six branches, with traces."""
    engine = groups.tiny_engine(folder, **(TIGHT if tight else {}))
    requests = (
        groups.decoding_requests(TIGHT_REQUESTS, TIGHT_LENGTH, arms=TIGHT_ARMS)
        if tight
        else groups.decoding_requests(NUM_REQUESTS, LENGTH)
    )
    answers = groups.run_requests(engine, requests, trace=not tight)
    engine.check_runner()
    assert agreed(engine) == 1
    counts = engine.scheduler.counts
    print(dict(counts), engine.counters())
    assert counts["violations"] == 0
    assert engine.counters()["cached_tokens"] > 0
    if tight:
        assert len(engine.group_outputs) >= GROUPS
        assert counts["preempted"] + counts["partly preempted"] > 0
        assert (
            sum(engine.count_tokens(request.prompt) > TIGHT["max_num_batched_tokens"] for request in requests)
            > len(requests) / 2
        )
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == engine.scheduler.kv_cache_config.num_blocks - 1
    engine.unload()
    preempted = counts["preempted"] + counts["partly preempted"]
    preemptions = f"{preempted} preempted, branches of {agreed(engine):.0%} of the groups agree"
    work = f"{len(requests)} requests, {len(engine.group_outputs)} of them groups of two branches or more"
    record_property("measured", f"{work}: {check(reference, requests, answers, least=0.9)}; {preemptions}")


class Default(groups.Watched):
    """An engine with vLLM's own scheduler, which the check of the configuration is set to accept."""

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"scheduler_cls": None, "additional_config": {"lockstep_allow": ["scheduler"]}}


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_the_same_check_fails_under_the_default_scheduler(folder: Path, reference: Reference) -> None:
    engine = groups.tiny_engine(folder, Default, max_num_batched_tokens=64)
    requests = groups.decoding_requests(10, LENGTH, arms=groups.ARMS[:2])
    answers = groups.run_requests(engine, requests)
    engine.unload()
    assert agreed(engine) < 0.5
    whole = [(j, a) for j, a in zip(requests, answers, strict=True) if not isinstance(a, Failure)]
    with pytest.raises(AssertionError):
        check(reference, [j for j, _ in whole], [a for _, a in whole], least=0.9)
