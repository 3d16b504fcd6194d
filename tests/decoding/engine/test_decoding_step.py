from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.engine.decoding_step import combine_branches, combine_branches_on_device, combine_together, fault_message
from icl import Strategy

INF = float("inf")


@dataclass(frozen=True)
class Plain(Strategy):
    """The scores of branch 0, by a rule of its own."""

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0]


def random_logits(branches: int, rows: int, seed: int) -> Tensor:
    """Logits [n, B, 7] with a banned token, and with a fault in each of the last five rows."""
    logits = torch.randn(branches, rows + 5, 7, generator=torch.Generator().manual_seed(seed))
    logits[:, :, 2] = -INF
    for row, value in enumerate((float("nan"), INF), rows):
        logits[-1, row, 3] = value
    logits[0, rows + 2] = -INF
    logits[-1, rows + 3, 4] = -INF
    logits[:, rows + 4] = -INF
    return logits


NODES: tuple[Any, ...] = ("greedy", {"name": "vcd", "alpha": 0.5}, "vcd", "m3id", {"name": "mask_only", "of": "vcd"})


def test_batches_that_are_combined_together_have_the_scores_and_faults_of_each_alone() -> None:
    strategies = [Strategy(), Plain(), *(parse_arm(node).strategy for node in NODES)]
    batches = [
        (one, random_logits(branches, 1 + place % 3, place), 1, ())
        for place, one in enumerate(strategies)
        for branches in ((1, 2) if place < 2 else (1 if NODES[place - 2] == "greedy" else 2,))
    ]
    for batch, together in zip(batches, combine_together(batches), strict=True):
        strategy, logits, step, _ = batch
        (scores, is_faulty, best), (alone, *others) = together, combine_branches_on_device(*batch)
        assert torch.equal(scores, alone)
        assert torch.equal(is_faulty, others[0])
        torch.testing.assert_close(best[~is_faulty], others[1][~is_faulty], rtol=0, atol=0)
        for row in is_faulty.nonzero()[:, 0].tolist():
            messages = {fault_message(strategy, step, one, logits, row) for one in (best, others[1])}
            assert len(messages) == 1
            assert "" not in messages


@pytest.mark.parametrize("branches", [1, 2])
def test_scores_of_the_reference_need_no_rule(branches: int) -> None:
    """A strategy without `combine` and one that returns the logits of branch 0 have equal scores and messages."""
    logits = random_logits(branches, 3, 0)
    scores, faults = combine_branches(Strategy(), logits, 4)
    expected, messages = combine_branches(Plain(), logits, 4)
    assert torch.equal(scores, expected)
    assert {row: text.replace("Plain", "Strategy") for row, text in messages.items()} == faults
    assert len(faults) >= 4
    _, is_faulty, _ = combine_branches_on_device(Strategy(), logits, 4)
    assert is_faulty.nonzero()[:, 0].tolist() == list(faults)
    assert all(faults.values())
