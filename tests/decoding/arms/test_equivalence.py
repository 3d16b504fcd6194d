"""Arms that are greedy by construction, compared with their scores."""

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.equivalence import _has_equal_branches, is_equivalent_to_greedy
from decoding.arms.inspection import logits_count, probe_branches
from decoding.base import InitialStepState, Strategy
from icl.errors import ICLError
from icl.registry import entries

WRAPPED = ("vcd", "chasd", "adacad")
SHARED = 6.0
"""How far a token stands out in all branches: what a plausibility mask is for."""


def nodes():
    for name in entries("strategy"):
        yield from ({"name": name}, *({"name": name, "of": of} for of in WRAPPED))


def arms():
    """Every strategy, and those with neutral parameters."""
    for node in nodes():
        try:
            arm = parse_arm(node)
            probe_branches(arm.strategy)
            yield arm
            if arm.strategy.neutral_parameters:
                yield parse_arm({**node, **arm.strategy.neutral_parameters})
        except (ICLError, TypeError):
            continue


def best(strategy: Strategy, logits: torch.Tensor) -> torch.Tensor:
    scores = strategy.combine_stateful(logits, 1, [InitialStepState() for _ in range(logits.shape[1])])
    mask = strategy.mask(logits[0])
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).argmax(-1)


def test_arms_equivalent_to_greedy_choose_the_best_token_of_the_reference():
    labels = []
    for arm in arms():
        logits = 3 * torch.randn(logits_count(arm.strategy), 200, 64, generator=torch.Generator().manual_seed(0))
        same = bool((best(arm.strategy, logits) == logits[0].argmax(-1)).all())
        claimed = is_equivalent_to_greedy(arm.config, "generate", 2)
        assert same or not claimed, arm.label
        labels += [arm.label] * claimed
    controls = {"mask_only(vcd)", "temperature_matched(adacad)", "entropy_matched(vcd)"}
    assert {"greedy", "vcd(alpha=0)", *controls} <= {*labels}
    assert not {"vcd", "sign_flip(vcd)", "mask_only(contrast)"} & {*labels}


def test_equal_branches_at_0_shots_choose_the_best_token():
    names = set()
    for arm in arms():
        if _has_equal_branches(arm.strategy):
            logits = 3 * torch.randn(1, 200, 64, generator=torch.Generator().manual_seed(0))
            equal = logits.expand(logits_count(arm.strategy), -1, -1)
            assert bool((best(arm.strategy, equal.clone()) == logits[0].argmax(-1)).all()), arm.label
            names.add(arm.label)
    assert "more_demonstrations" in names
    assert not {"vcd", "dola"} & names


@pytest.mark.parametrize(
    ("node", "score", "shots", "greedy"),
    [
        ("greedy", "generate", 2, True),
        ({"name": "mask_only", "of": "vcd"}, "generate", 2, True),
        ({"name": "mask_only", "of": "vcd"}, "options", 2, False),  # a mask on tokens changes options' sums
        ({"name": "mask_only", "of": "vcd", "sampling": {"temperature": 0.7}}, "generate", 2, False),
        ({"name": "mask_only", "of": "vcd", "sampling": {"beams": 4}}, "generate", 2, False),
        ({"name": "mask_only", "of": {"name": "coiecd"}}, "generate", 2, None),
        ({"name": "vcd", "alpha": 0.0}, "generate", 2, True),
        ({"name": "vcd", "alpha": 0.0}, "options", 2, False),
        ("vcd", "generate", 0, False),
        ({"name": "cad", "without": "demonstrations"}, "generate", 0, True),
        ({"name": "cad", "without": "demonstrations"}, "generate", 2, False),
        ("more_demonstrations", "generate", 0, True),
        ("more_demonstrations", "generate", 2, False),
        ("constant_bias", "options", 2, True),  # as long as it has not been fitted
        ({"name": "constant_bias", "biases": [0.5, 0.0]}, "options", 2, False),
    ],
)
def test_equivalence_depends_on_sampler_answer_mode_and_shots(node, score, shots, greedy):
    arm = parse_arm(node)
    expected = arm.strategy.of.traits.masks_in_combine is False if greedy is None else greedy
    assert is_equivalent_to_greedy(arm.config, score, shots) is expected


@pytest.mark.parametrize("node", ["mine.py:Mine", {"name": "mask_only", "of": {"name": "mine.py:Mine"}}])
def test_a_users_class_is_never_equivalent(node):
    config = {"name": node} if isinstance(node, str) else node
    assert not is_equivalent_to_greedy({"strategy": config, "sampler": {"name": "greedy"}}, "generate", 2)


def test_a_strategy_that_cannot_read_the_prompt_is_not_greedy() -> None:
    """Without demonstrations, `other_answers` has no answers to exchange: its samples fail."""
    arm = parse_arm({"name": "other_answers", "of": "ced"})
    assert not is_equivalent_to_greedy(arm.config, "generate", 0)
