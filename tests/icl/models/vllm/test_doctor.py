"""The row of `icl doctor --bench` on strategies in vLLM, on a CPU."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

from decoding.arms.arm import parse_arm
from decoding.strategies.context_aware import CAD
from icl.types import Generation
from lab.gpu.check import Bench
from lab.gpu.checks import lockstep_equality
from lab.gpu.plain_reference import PlainReference
from lab.gpu.random_checkpoint import TOY, write_checkpoint
from lab.gpu.workload import make_prompts


def test_strategies_in_a_tight_cache_choose_the_tokens_of_plain_forward_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr(lockstep_equality, "PROMPTS", 8)
    runner, violations, tokens, cost = lockstep_equality.run(Bench(tmp_path, "cpu"))
    assert "0 preempted" not in runner.measured
    assert (violations.measured, violations.passes) == ("0", True)
    assert tokens.passes, tokens
    assert int(tokens.measured.rpartition(" ")[2]) >= 8 * 3 * lockstep_equality.LENGTH
    assert cost.measured == "not here: needs a GPU"


def test_other_tokens_than_those_of_the_strategy_are_not_equal(tmp_path: Path) -> None:
    reference = PlainReference(str(write_checkpoint(tmp_path / "toy", TOY)), "cpu")
    arm, (prompt,) = parse_arm("cad"), make_prompts(1, (1,))
    assert isinstance(arm.strategy, CAD)
    token = int(reference.logits(prompt, ()).argmin())
    steps, decided, equal = reference.compare(prompt, arm, Generation("", (token,), "length"), set(), 1e-2)
    assert (steps, decided, equal) == (1, 1, 0)
