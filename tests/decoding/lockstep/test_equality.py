"""Real vLLM on a CPU: branches always agree, and tokens are the strategy's own wherever a step is decided."""

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

JOBS, LENGTH = 100, 12
TIGHT_JOBS, TIGHT_LENGTH, GROUPS = 136, 40, 100
"""GROUPS of TIGHT_JOBS at least have two branches and more."""

STOPS = frozenset(checkpoints.STOPS)
ARCHITECTURES = ("llava", "qwen2_5_vl")
TIGHT = {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 33, "max_num_seqs": 16}
"""Prompts of up to 250 tokens are read in chunks of at most 64, and a few groups fill the cache."""

TIGHT_ARMS = ("greedy", *groups.ARMS[:2], groups.ARMS[3])
"""Without traces, greedy is an ordinary request."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.saved(request.param, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def check(reference: Reference, jobs: list[DecodingRequest], answers: list[Any], least: float) -> str:
    """The figures, once they hold."""
    steps = decided = equal = 0
    for job, answer in zip(jobs, answers, strict=True):
        assert isinstance(answer, Generation), answer.reason
        found = reference.compare(job.prompt, job.arm, answer.tokens, STOPS if answer.finish == "stop" else frozenset())
        assert found.equal == found.decided, (job.arm.label, answer.tokens, found)
        steps, decided, equal = steps + found.steps, decided + found.decided, equal + found.equal
    assert decided / steps > least
    share = f"{steps} steps, {decided / steps:.2%} decided by more than {reference.tolerance} of a logit"
    return f"{share}, {equal} of these {decided} equal the strategy's own token"


def agreed(engine: groups.Watched) -> float:
    heard = engine.groups_heard
    return sum(len({one.tokens for one in said}) == 1 for said in heard) / len(heard)


@pytest.mark.parametrize("tight", [True, False], ids=["tight", "roomy"])
def test_branches_agree_and_tokens_are_the_strategys_own(
    folder: Path, reference: Reference, tight: bool, record_property: Callable[[str, object], None]
) -> None:
    """Tight: chunks, preemption, ordinary requests between the groups. Roomy: up to six branches, traces kept."""
    engine = groups.tiny_engine(folder, **(TIGHT if tight else {}))
    jobs = groups.jobs(TIGHT_JOBS, TIGHT_LENGTH, arms=TIGHT_ARMS) if tight else groups.jobs(JOBS, LENGTH)
    answers = groups.run_requests(engine, jobs, trace=not tight)
    assert agreed(engine) == 1
    counts = engine.scheduler.counts
    print(dict(counts), engine.counters())
    assert counts["violations"] == 0
    assert engine.counters()["cached_tokens"] > 0
    if tight:
        assert len(engine.groups_heard) >= GROUPS
        assert counts["preempted"] + counts["torn"] > 0
        assert sum(engine.count_tokens(job.prompt) > TIGHT["max_num_batched_tokens"] for job in jobs) > len(jobs) / 2
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == engine.scheduler.kv_cache_config.num_blocks - 1
    engine.unload()
    torn = f"{counts['preempted'] + counts['torn']} preempted, branches of {agreed(engine):.0%} of the groups agree"
    asked = f"{len(jobs)} jobs, {len(engine.groups_heard)} of them groups of two branches and more"
    record_property("measured", f"{asked}: {check(reference, jobs, answers, least=0.9)}; {torn}")


class Default(groups.Watched):
    """vLLM's own scheduler, with the guard asked to let it pass."""

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"scheduler_cls": None, "additional_config": {"lockstep_allow": ["scheduler"]}}


def test_the_same_check_fails_under_the_default_scheduler(folder: Path, reference: Reference) -> None:
    engine = groups.tiny_engine(folder, Default, max_num_batched_tokens=64)
    jobs = groups.jobs(10, LENGTH, arms=groups.ARMS[:2])
    answers = groups.run_requests(engine, jobs)
    engine.unload()
    assert agreed(engine) < 0.5
    whole = [(j, a) for j, a in zip(jobs, answers, strict=True) if not isinstance(a, Failure)]
    with pytest.raises(AssertionError):
        check(reference, [j for j, _ in whole], [a for _, a in whole], least=0.9)
