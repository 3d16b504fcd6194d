"""The engine's log-probabilities are close enough to the strategy's own to detect a weight that is wrong by 2 %.

Such a weight changes too few tokens to be detected by them.
"""

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from reference import Reference

from decoding.arms.arm import Arm
from icl.types import Generation

NEAR = 1e-4
"""Tolerance of a log-probability: 5e-5 in float32, and as much for the four decimals of a stored trace."""


def wrong(arm: Arm) -> Arm:
    """The arm with a contrast weight that is wrong by 2 %, or with two branches swapped."""
    strategy: Any = arm.strategy
    if hasattr(strategy, "alpha"):
        return replace(arm, strategy=replace(strategy, alpha=1.02 * strategy.alpha))
    kind = type(strategy)

    def swapped(self: Any, prompt: Any, note: object = None) -> Any:
        first, second, third, *rest = kind.branches(self, prompt, note)
        return first, third, second, *rest

    other = type("Swapped", (kind,), {"branches": swapped})
    return replace(arm, strategy=other(strategy.branch_count, strategy.beta))


# The token ids of a model are compared by test_equality; the weights of branches do not depend on it.
@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl"] if groups.IS_WHOLE else ["qwen2_5_vl"])
def test_log_probabilities_depend_on_the_weight_of_every_branch(architecture: str, record_property: Any) -> None:
    folder = checkpoints.shared(architecture)
    reference, engine = Reference(folder), groups.tiny_engine(folder)
    requests = groups.decoding_requests(20, 8, seed=17, arms=groups.ARMS[:4])
    answers = groups.run_requests(engine, requests)
    engine.unload()
    right, off = list[float](), list[float]()
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Generation), answer
        if not answer.tokens:
            continue
        for arm, distances in ((request.arm, right), (wrong(request.arm), off)):
            distances.append(reference.distance(request.prompt, arm, answer.tokens, answer.trace["logprob"]))
    assert len(right) > 12
    assert max(right) < NEAR
    detected = sum(distance > NEAR for distance in off)
    assert detected > 0.9 * len(off)
    measured = f"{len(right)} groups, log-probabilities at most {max(right):.1e} apart"
    record_property(
        "measured", f"{measured}; a weight wrong by 2 % or branches swapped shows in {detected} of {len(off)}"
    )
