"""Both interfaces of the logits processor: the rows of requests that arrive, move and leave."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import numpy as np
import torch
from test_engine_requirements import engine
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from decoding.formulas.sampling import Greedy
from decoding.lockstep.logits_processor import LockstepLogitsProcessor
from decoding.lockstep.request_metadata import SECRET_VARIABLE, BranchMetadata, serialize
from decoding.lockstep.step_records import RECORD_STORE
from decoding.strategies.vcd import VCD

ARM = serialize(VCD(), Greedy())


def parameters(group: str | None, index: int = 0) -> SamplingParams:
    extra = BranchMetadata(group, index, 2, ARM).extra_args() if group else None
    return SamplingParams(temperature=0, extra_args=extra)


def request_states(prompt: np.ndarray, prefill: np.ndarray | None = None) -> Any:
    """The lengths of the second runner, by slot: prompts, and what the runner computes before it samples."""
    lengths = prompt if prefill is None else prefill
    return SimpleNamespace(prompt_len=SimpleNamespace(np=prompt), prefill_len=SimpleNamespace(np=lengths))


def test_rows_are_followed_as_the_batch_changes() -> None:
    processor = LockstepLogitsProcessor(engine(), torch.device("cpu"), False)
    outputs: list[list[int]] = [[], [], [], []]
    added = [(0, parameters("g", 0), None, outputs[0]), (1, parameters(None), None, outputs[1]),
             (2, parameters("g", 1), None, outputs[2]), (3, parameters("h", 0), None, outputs[3])]  # fmt: skip
    processor.update_state(BatchUpdate(4, [], added, []))
    outputs[0].append(5), outputs[2].append(5)
    rows = {(row.branch.group, row.branch.index): (row.index, row.step) for row in processor._first_rows()}
    assert rows == {("g", 0): (0, 1), ("g", 1): (2, 1), ("h", 0): (3, 0)}
    swap, move = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL
    processor.update_state(BatchUpdate(4, [3], [], [(0, 1, swap), (2, 3, move)]))
    rows = {(row.branch.group, row.branch.index): (row.index, row.step) for row in processor._first_rows()}
    assert rows == {("g", 0): (1, 1), ("g", 1): (3, 1)}
    logits = torch.randn(4, 30)
    before = logits.clone()
    assert processor.apply(logits) is logits
    assert int(logits[1].argmax()) == int(logits[3].argmax())
    assert torch.equal(logits[[0, 2]], before[[0, 2]])


def test_the_second_runner_identifies_rows_by_slots() -> None:
    lengths = np.array([0, 12, 0, 40, 7])
    states = request_states(lengths)
    processor = LockstepLogitsProcessor(engine(), states)
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


def rows_of(processor: LockstepLogitsProcessor) -> dict[int, tuple[str, int]]:
    return {row.index: (row.branch.group, row.branch.index) for row in processor._first_rows()}


def test_rows_move_as_vllm_reports() -> None:
    processor = LockstepLogitsProcessor(engine(), torch.device("cpu"), False)
    swap, move = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL
    added = [(i, parameters(group, index), None, []) for i, (group, index) in enumerate((("g", 0), ("g", 1)))]
    processor.update_state(BatchUpdate(4, [], added, []))
    processor.update_state(None)  # nothing changed
    assert rows_of(processor) == {0: ("g", 0), 1: ("g", 1)}
    processor.update_state(BatchUpdate(4, [], [], [(0, 1, swap)]))
    assert rows_of(processor) == {1: ("g", 0), 0: ("g", 1)}
    processor.update_state(BatchUpdate(4, [], [], [(2, 1, swap)]))  # an ordinary row takes the place of a branch's
    assert rows_of(processor) == {2: ("g", 0), 0: ("g", 1)}
    processor.update_state(BatchUpdate(4, [], [], [(3, 0, move)]))  # and here it takes it for good
    assert rows_of(processor) == {2: ("g", 0)}
    processor.update_state(BatchUpdate(4, [], [(2, parameters(None), None, [])], []))  # so does an ordinary request
    assert rows_of(processor) == {}
    processor.update_state(BatchUpdate(4, [], [(2, parameters("h"), None, []), (3, parameters("h", 1), None, [])], []))
    processor.update_state(BatchUpdate(4, [3, 0], [(3, parameters("i"), None, [])], [(3, 0, move)]))
    assert rows_of(processor) == {2: ("h", 0), 0: ("i", 0)}
    processor.update_state(BatchUpdate(1, [2], [], []))
    assert rows_of(processor) == {0: ("i", 0)}


def test_a_batch_without_branches_is_unchanged() -> None:
    processor = LockstepLogitsProcessor(engine(), torch.device("cpu"), False)
    processor.update_state(BatchUpdate(2, [], [(0, parameters(None), None, []), (1, parameters("g"), None, [])], []))
    logits = torch.randn(2, 30)
    before = logits.clone()
    assert processor.apply(logits) is logits
    assert torch.equal(logits, before)  # half a group is none
    assert not processor.is_argmax_invariant()


def test_rows_in_the_middle_of_their_prompt_sample_nothing_under_the_second_runner() -> None:
    states = request_states(np.array([12, 40]))
    processor = LockstepLogitsProcessor(engine(), states)
    for slot, index in ((0, 0), (1, 1)):
        assert processor.add_request(slot, parameters("g", index))
    logits = torch.randn(2, 30)
    before = logits.clone()

    def step(*lengths: int) -> None:
        context = SimpleNamespace(idx_mapping_np=np.array([0, 1]), seq_lens_upper_bound_np=np.array(lengths))
        processor.apply(logits, context)

    step(12, 39)
    step(11, 39)
    assert torch.equal(logits, before)
    step(12, 40)
    assert int(logits[0].argmax()) == int(logits[1].argmax())
    assert not torch.equal(logits, before)


def test_the_answer_of_a_preempted_request_is_computed_again_in_chunks_without_a_record() -> None:
    """A chunk that ends inside the answer samples nothing, so the record has one entry for each chosen token."""
    states = request_states(np.array([12, 40]))
    processor = LockstepLogitsProcessor(engine(), states)
    trace: list[list[float]] = []
    for index in (0, 1):
        extra = BranchMetadata("preempted", index, 2, ARM, trace=True).extra_args()
        assert processor.add_request(index, SamplingParams(temperature=0, extra_args=extra))

    def step(*lengths: int) -> int:
        context = SimpleNamespace(idx_mapping_np=np.array([0, 1]), seq_lens_upper_bound_np=np.array(lengths))
        processor.apply(torch.randn(2, 30), context)
        RECORD_STORE.settle(wait=True)
        trace[:] = RECORD_STORE.of("preempted").trace
        return len(trace)

    assert [step(12 + i, 40 + i) for i in range(6)] == [1, 2, 3, 4, 5, 6]
    before = list(trace)
    states.prefill_len.np = np.array([18, 46])  # preempted after six tokens
    assert [step(14, 42), step(17, 45)] == [6, 6]
    assert step(18, 46) == 7
    assert trace[:6] == before
    RECORD_STORE.take("preempted")


def test_an_unverified_engine_gets_no_processor() -> None:
    with pytest.raises(ValueError, match="async_scheduling=False"):
        LockstepLogitsProcessor(engine(async_scheduling=True), torch.device("cpu"), False)


ACTS: tuple[tuple[str, Any], ...] = (
    ("min_p", 0.1),
    ("presence_penalty", 0.5),
    ("frequency_penalty", -0.5),
    ("repetition_penalty", 1.1),
    ("min_tokens", 2),
    ("logit_bias", {5: 1.0}),
    ("allowed_token_ids", [5]),
    ("bad_words", ["red"]),
    ("thinking_token_budget", 8),
    ("structured_outputs", object()),
    ("prompt_logprobs", 1),
    ("temperature", 0.5),
    ("n", 2),
)


@pytest.mark.parametrize(("name", "value"), ACTS)
def test_a_parameter_that_changes_one_branch_alone_is_refused(name: str, value: Any) -> None:
    branch = parameters("g")
    LockstepLogitsProcessor.validate_params(branch)
    setattr(branch, name, value)
    with pytest.raises(ValueError, match=f"^{name}=.* cannot be set for a branch"):
        LockstepLogitsProcessor.validate_params(branch)
    ordinary = parameters(None)
    setattr(ordinary, name, value)
    LockstepLogitsProcessor.validate_params(ordinary)  # an ordinary request may


def test_a_branch_is_checked_at_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = SamplingParams(
        temperature=0, extra_args=BranchMetadata("g", 0, 2, '[{"name": "no_such"}, null]').extra_args()
    )
    with pytest.raises(ValueError, match="no strategy named 'no_such'"):
        LockstepLogitsProcessor.validate_params(gone)
    monkeypatch.setenv(SECRET_VARIABLE, "s3cret")
    with pytest.raises(ValueError, match="groups are named by the server"):
        LockstepLogitsProcessor.validate_params(parameters("g"))
    LockstepLogitsProcessor.validate_params(parameters("s3cret-1"))
    LockstepLogitsProcessor.validate_params(parameters(None))
