"""Both interfaces of the logits processor, by hand: where rows are, as requests come, move and leave."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import numpy as np
import torch
from test_guard import engine
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from decoding.lockstep import wire
from decoding.lockstep.branch import Branch
from decoding.lockstep.processor import LockstepProcessor
from decoding.sampling import Greedy
from decoding.strategies.vcd import VCD

ARM = wire.told(VCD(), Greedy())


def parameters(group: str | None, index: int = 0) -> SamplingParams:
    extra = Branch(group, index, 2, ARM).extra_args() if group else None
    return SamplingParams(temperature=0, extra_args=extra)


def test_rows_are_followed_as_the_batch_changes() -> None:
    processor = LockstepProcessor(engine(), torch.device("cpu"), False)
    outputs: list[list[int]] = [[], [], [], []]
    added = [(0, parameters("g", 0), None, outputs[0]), (1, parameters(None), None, outputs[1]),
             (2, parameters("g", 1), None, outputs[2]), (3, parameters("h", 0), None, outputs[3])]  # fmt: skip
    processor.update_state(BatchUpdate(4, [], added, []))
    outputs[0].append(5), outputs[2].append(5)
    told = {(row.branch.group, row.branch.index): (row.index, row.step) for row in processor._first_rows()}
    assert told == {("g", 0): (0, 1), ("g", 1): (2, 1), ("h", 0): (3, 0)}
    swap, move = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL
    processor.update_state(BatchUpdate(4, [3], [], [(0, 1, swap), (2, 3, move)]))
    told = {(row.branch.group, row.branch.index): (row.index, row.step) for row in processor._first_rows()}
    assert told == {("g", 0): (1, 1), ("g", 1): (3, 1)}
    logits = torch.randn(4, 30)
    before = logits.clone()
    assert processor.apply(logits) is logits
    assert int(logits[1].argmax()) == int(logits[3].argmax())
    assert torch.equal(logits[[0, 2]], before[[0, 2]])


def test_the_second_runner_tells_rows_by_slots() -> None:
    lengths = np.array([0, 12, 0, 40, 7])
    states: Any = SimpleNamespace(prompt_len=SimpleNamespace(np=lengths))
    processor = LockstepProcessor(engine(), states)
    assert processor.add_request(1, parameters("g", 0))
    assert processor.add_request(3, parameters("g", 1))
    assert not processor.add_request(4, parameters(None))
    context = SimpleNamespace(idx_mapping_np=np.array([4, 3, 1]), seq_lens_upper_bound_np=np.array([9, 42, 14]))
    logits = torch.randn(3, 30)
    before = logits.clone()
    processor.apply(logits, context)
    assert int(logits[1].argmax()) == int(logits[2].argmax())
    assert torch.equal(logits[0], before[0])
    assert not processor.add_request(3, parameters(None))  # the slot is given to another request
    assert list(processor.slots) == [1]
