"""Random numbers and stored values of a strategy are the same in both engines."""

from contextlib import suppress
from typing import Any

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import branch_count
from decoding.base import InitialStepState, Strategy
from decoding.controls.base import WrappingControl
from decoding.controls.random_numbers import GaussianProxy
from decoding.controls.recombinations import MaskOnly
from decoding.engine.decoding_step import combine_branches
from decoding.lockstep.request_metadata import BranchMetadata, deserialize, serialize
from decoding.lockstep.step_records import RECORD_STORE
from decoding.lockstep.token_selection import BatchRow, complete_groups, select_tokens
from decoding.strategies.several_prompts import NBCE
from decoding.strategies.vcd import VCD
from icl.errors import ConfigError
from icl.registry import entries, resolve
from icl.streams import StreamKey

VOCABULARY, STEPS = 40, 4
NODES: list[Any] = [
    {"name": "gaussian_proxy", "of": "vcd"},
    {"name": "random_gate", "of": {"name": "dcd", "entity": "none"}},
    {"name": "nbce", "top_p": 1.0, "eta": 0.5},
    {"name": "sign_flip", "of": {"name": "nbce", "eta": 0.5}},
    {"name": "contrast", "branches": ["no_image", {"change": "noise", "step": 9}], "weights": [2, -0.5, -0.5]},
    {"name": "moicl", "weights": [0.5, 0.7]},
    {"name": "chasd", "method": {"name": "vcd", "alpha": 0.3}},
    {"name": "chasd", "method": {"name": "nbce", "eta": 0.5}, "threshold": 0.6},
    {"name": "random_gate", "of": {"name": "chasd", "method": {"name": "nbce", "eta": 0.5}}},
]


def steps(count: int) -> list[torch.Tensor]:
    draws = [torch.Generator().manual_seed(seed) for seed in range(STEPS)]
    return [3 * torch.randn(count, VOCABULARY, generator=draw) for draw in draws]


@pytest.mark.parametrize("node", NODES, ids=str)
def test_lockstep_has_the_step_states_of_the_token_loop(node: Any) -> None:
    arm = parse_arm(node)
    count = branch_count(arm.strategy)
    config = serialize(arm.strategy, arm.sampler)
    assert deserialize(config)[0] == arm.strategy
    for query in ("a", "b"):
        state, chosen, expected = InitialStepState(StreamKey(3, query)), [], []
        for step, logits in enumerate(steps(count)):
            after = logits.clone()
            rows = [
                BatchRow(i, BranchMetadata(f"{node}/{query}", i, count, config, 3, query), step) for i in range(count)
            ]
            select_tokens(after, complete_groups(rows))
            chosen.append({int(row.argmax()) for row in after})
            scores, faults = combine_branches(arm.strategy, logits[:, None], step, [state])
            assert not faults
            expected.append({int(scores.argmax())})
        assert chosen == expected
        RECORD_STORE.take(f"{node}/{query}")


@pytest.mark.parametrize("of", [NBCE(), GaussianProxy(VCD())], ids=lambda of: type(of).__name__)
def test_controls_of_random_and_stateful_strategies_are_random_and_stateful(of: Strategy) -> None:
    controls: dict[str, WrappingControl] = {}
    for name in entries("strategy"):
        kind = resolve("strategy", name)
        if issubclass(kind, WrappingControl):
            with suppress(ConfigError):  # one that is not defined for this method
                controls[name] = kind(of)
    assert len(controls) > 7
    for name, control in controls.items():
        if control.needs_all_branches:
            assert control.traits.draws_random_numbers >= of.traits.draws_random_numbers, name
            assert control.traits.keeps_state == of.traits.keeps_state, name
    assert not MaskOnly(GaussianProxy(VCD())).traits.draws_random_numbers  # it reads the reference alone


def test_a_gated_method_keeps_its_state() -> None:
    """A large eta prefers the window of the step before, whatever the entropies are."""
    arm = parse_arm({"name": "chasd", "method": {"name": "nbce", "eta": 99.0, "top_p": 1.0}, "threshold": 1.0})
    assert arm.strategy.traits.keeps_state
    first, second = torch.zeros(2, 4, 1, 50)
    first[1, 0, 7] = second[2, 0, 7] = 20.0  # sure are the first window, then the second
    state = InitialStepState()
    arm.strategy.combine_stateful(first, 0, [state])
    arm.strategy.combine_stateful(second, 1, [state])
    fresh = InitialStepState()
    arm.strategy.combine_stateful(second, 1, [fresh])
    assert (state.memory, fresh.memory) == ({0: 0, 1: 0}, {1: 1})
