"""Token selection from the rows of a batch, without an engine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import branch_count
from decoding.base import InitialStepState, Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.engine.option_scoring import combined_logprobs
from decoding.engine.trace import TRACE_FIELDS, trace_branches
from decoding.formulas.sampling import Greedy
from decoding.lockstep.request_metadata import (
    METADATA_KEY,
    SECRET_VARIABLE,
    BranchMetadata,
    ThinkingLimits,
    check_group_name,
    deserialize,
    parse_branch,
    serialize,
)
from decoding.lockstep.step_records import RECORD_STORE, GroupRecord, LockstepWorkerExtension, RecordStore
from decoding.lockstep.token_selection import BatchRow, complete_groups, select_tokens
from decoding.strategies.without_image import M3ID
from icl.errors import PlanError
from tests.decoding.thinker import CLOSING, OPENING, WordTokenizer

VOCABULARY = 40
SPREAD = f"{Path(__file__).with_name('spread.py')}:Spread"


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    """Other tests find the store empty."""
    yield
    RECORD_STORE.deferred.clear()
    RECORD_STORE.records.clear()
    RECORD_STORE.faulty.clear()


def rows(group: str, arm: Any, places: list[int], step: int = 0, **more: Any) -> list[BatchRow]:
    parsed = parse_arm(arm)
    arm_text = serialize(parsed.strategy, parsed.sampler)
    return [
        BatchRow(i, BranchMetadata(group, b, len(places), arm_text, 3, group, **more), step)
        for b, i in enumerate(places)
    ]


def logits(count: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def test_groups_of_one_batch_have_the_weights_of_their_notes() -> None:
    before, arm = logits(6), {"name": "parallel_icl"}
    notes = {"a": [[[0], [1]], [0.9, 0.1]], "b": [[[0], [1]], [0.2, 0.8]]}
    parts = [rows(name, arm, [3 * i, 3 * i + 1, 3 * i + 2], note=note) for i, (name, note) in enumerate(notes.items())]
    after = before.clone()
    select_tokens(after, complete_groups([row for part in parts for row in part]))
    for part, (_, weights) in zip(parts, notes.values(), strict=True):
        own = before[[row.index for row in part[1:]]].log_softmax(-1)
        expected = int((torch.tensor(weights)[:, None] * own).sum(0).argmax())
        assert {int(after[row.index].argmax()) for row in part} == {expected}
        assert parse_branch(part[0].branch.extra_args()) == part[0].branch


def test_every_branch_chooses_the_token_of_its_strategy() -> None:
    """One batch has groups of several arms, steps and sizes, rows in any order, and an ordinary request."""
    before = logits(12)
    parts = [
        rows("a", "vcd", [7, 2], step=1),
        rows("b", {"name": SPREAD, "branch_count": 4}, [0, 11, 5, 3], step=4),
        rows("c", {"name": "vcd", "sampling": {"temperature": 2.0}}, [6, 9], step=1),
        rows("d", "vcd", [10, 1], step=0),
        rows("e", "sampling", [8], step=2),
    ]
    after = before.clone()
    select_tokens(after, complete_groups([row for part in reversed(parts) for row in part]))
    for part in parts:
        strategy, sampler = deserialize(part[0].branch.arm)
        combined, _ = combine_branches(strategy, before[[row.index for row in part]][:, None], part[0].step)
        expected = sampler.choose(combined, [part[0].branch.key], part[0].step)
        assert {int(after[row.index].argmax()) for row in part} == {int(expected)}
    assert torch.equal(after[4], before[4])


def test_a_group_is_combined_only_whole_and_at_one_step() -> None:
    whole, half, other_step = rows("a", "vcd", [0, 1]), rows("b", "vcd", [2, 3])[:1], rows("c", "vcd", [4, 5])
    other_step[1] = BatchRow(5, other_step[1].branch, 1)
    assert complete_groups([*half, *other_step, *whole]) == [whole]


def test_options_choose_their_own_tokens_and_record_the_strategys_log_probabilities() -> None:
    steps = [logits(2, seed) for seed in range(3)]
    option, first = (5, 9, 2), (5, 1, 7)
    for step, each in enumerate(steps):
        after = each.clone()
        select_tokens(after, complete_groups(rows("o", "vcd", [0, 1], step, first=first, force=option)))
        assert after.argmax(-1).tolist() == [option[step]] * 2
    strategy = parse_arm("vcd").strategy
    logprobs = [combined_logprobs(strategy, each[:, None], step)[0][0] for step, each in enumerate(steps)]
    record = RECORD_STORE.take("o")
    assert record is not None
    assert record.forced == pytest.approx([float(logprobs[s][token]) for s, token in enumerate(option)])
    assert record.first == pytest.approx([float(logprobs[0][token]) for token in first])


def test_a_step_computed_twice_counts_once() -> None:
    for seed, step in ((0, 0), (1, 0), (2, 1)):
        select_tokens(logits(2, seed), complete_groups(rows("t", "vcd", [0, 1], step, trace=True)))
    record = RECORD_STORE.take("t")
    assert record is not None
    assert len(record.trace) == 2
    combined, _ = combine_branches(parse_arm("vcd").strategy, logits(2, 1)[:, None], 0)
    assert dict(zip(TRACE_FIELDS, record.trace[0], strict=True))["logprob"] == pytest.approx(
        float(combined.log_softmax(-1).max())
    )


def test_each_group_has_the_records_that_it_requests() -> None:
    """Groups of one arm in one combination, some with traces, some with step traces, some with neither."""
    parts = [rows("plain", "vcd", [0, 1]), rows("traced", "vcd", [2, 3], trace=True), rows("seen", "vcd", [4, 5])]
    parts[2] = [BatchRow(row.index, replace(row.branch, top=2), 0) for row in parts[2]]
    select_tokens(logits(6), complete_groups([row for part in parts for row in part]))
    records = {name: RECORD_STORE.take(name) or GroupRecord() for name in ("plain", "traced", "seen")}
    assert [(len(record.trace), len(record.step_traces)) for record in records.values()] == [(0, 0), (1, 0), (0, 1)]
    assert [len(ids) for ids in records["seen"].step_traces[0].ids] == [2, 2, 2]


def test_step_traces_beside_a_faulty_group_are_those_of_the_logits() -> None:
    batch = logits(4)
    parts = [rows(name, "adacad", [i, i + 1], trace=True, top=3) for i, name in ((0, "good"), (2, "bad"))]
    (expected,) = trace_branches(
        parse_arm("adacad").strategy, batch[:2, None], *_combined("adacad", batch[:2]), step=0,
        states=[InitialStepState()], top=3,
    )  # fmt: skip
    batch[3, 5] = float("nan")
    select_tokens(batch, complete_groups([row for part in parts for row in part]))
    record = RECORD_STORE.take("good")
    assert record is not None
    assert record.step_traces == [expected]
    assert len(record.trace[0]) == len(TRACE_FIELDS)


def _combined(arm: str, branch_logits: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Combined scores of one row, and the chosen token."""
    scores, _ = combine_branches(parse_arm(arm).strategy, branch_logits[:, None], 0)
    return scores, scores.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_faulty_group_samples_different_tokens_and_has_a_reason(bad: float) -> None:
    batch = logits(4)
    batch[1, 17] = bad
    select_tokens(batch, complete_groups([*rows("bad", "vcd", [0, 1]), *rows("good", "vcd", [2, 3])]))
    assert batch[:2].argmax(-1).tolist() == [0, 1]
    assert batch.isfinite().all()
    assert batch[2].argmax() == batch[3].argmax()
    assert RECORD_STORE.reason("bad") == f"step 0, branch 1: the score of token 17 is {bad}"
    assert RECORD_STORE.reason("good") is None
    select_tokens(
        logits(2), complete_groups(rows("bad", "vcd", [0, 1]))
    )  # the prompt was read in chunks: the last time counts
    assert RECORD_STORE.reason("bad") is None
    RECORD_STORE.take("bad")


def test_a_strategy_that_this_process_cannot_build_is_a_fault() -> None:
    branches = [
        BatchRow(b, BranchMetadata("gone", b, 2, '[{"name": "no_such.module:Strategy"}, null]'), 0) for b in range(2)
    ]
    batch = logits(2)
    select_tokens(batch, complete_groups(branches))
    assert "no_such" in str(RECORD_STORE.reason("gone"))
    assert batch[0].argmax() != batch[1].argmax()
    RECORD_STORE.take("gone")


@pytest.mark.parametrize(
    ("node", "sentence"),
    [("shapeless", "Faulty.combine returned shape [1, 40, 1] for branches of [1, 40]"),
     ("raising", "ZeroDivisionError: integer division or modulo by zero (faulty.py, line 23)")],
)  # fmt: skip
@pytest.mark.parametrize("scored", [False, True])
def test_whatever_a_strategy_raises_ends_its_groups_alone(node: str, sentence: str, scored: bool) -> None:
    """An error inside a step would end the engine, which other requests share."""
    arm = {"name": f"{Path(__file__).with_name('faulty.py')}:Faulty", "how": node}
    batch, first = logits(4), (3,) if scored else ()
    select_tokens(batch, complete_groups([*rows("raises", arm, [0, 1], first=first), *rows("beside", "vcd", [2, 3])]))
    assert str(RECORD_STORE.reason("raises")).startswith(sentence)
    assert batch[0].argmax() != batch[1].argmax()
    assert batch[2].argmax() == batch[3].argmax()
    RECORD_STORE.take("raises"), RECORD_STORE.take("beside")


def test_the_store_drops_the_oldest_records() -> None:
    store = RecordStore(max_groups=2)
    for name in "abc":
        store.fault(name, 0, "why")
    assert [store.reason(name) for name in "abc"] == [None, "why", "why"]
    assert store.faulty == {"b", "c"}


def test_a_record_that_was_taken_from_the_store_is_gone() -> None:
    store = RecordStore()
    store.fault("g", 2, "why")
    store.fault("g", 3, "why else")
    store.clear_fault("g", 2)
    assert store.reason("g") == "why else"
    record = store.take("g")
    assert record is not None
    assert record.faults == {3: "why else"}
    assert store.reason("g") is None
    assert store.take("g") is None
    store.of("g")
    assert store.reason("g") is None


def test_workers_return_each_record_once() -> None:
    RECORD_STORE.fault("w1", 0, "why")
    RECORD_STORE.of("w2").forced.append(-1.5)
    RECORD_STORE.of("w3")
    assert LockstepWorkerExtension().lockstep_take_records(["w1", "unknown"]) == {
        "w1": {"trace": [], "step_traces": [], "first": [], "forced": [], "fault": "why"}
    }
    records = LockstepWorkerExtension().lockstep_take_records()
    assert records["w2"]["forced"] == [-1.5]
    assert records.keys() >= {"w2", "w3"}
    assert LockstepWorkerExtension().lockstep_take_records() == {}


def test_layers_that_a_worker_does_not_change_are_listed() -> None:
    adapter, modules = SimpleNamespace(loras={"b.q": 1, "a.q": 2, "c.q": 3}), {"c.q": 0, "d.q": 0}
    manager = SimpleNamespace(get_adapter={7: adapter}.__getitem__, modules=modules)
    worker = LockstepWorkerExtension()
    worker.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    assert worker.lockstep_unsupported_layers(7) == ["a.q", "b.q"]


@pytest.mark.parametrize(
    "arm",
    ["greedy", "vcd", {"name": "vcd", "alpha": 0.3, "sampling": {"top_p": 0.5}}, {"name": "mask_only", "of": "vcd"},
     {"name": "temperature_matched", "of": {"name": SPREAD, "branch_count": 2}}, {"name": SPREAD}],
)  # fmt: skip
def test_an_arm_survives_serialization(arm: Any) -> None:
    parsed = parse_arm(arm)
    assert deserialize(serialize(parsed.strategy, parsed.sampler)) == (parsed.strategy, parsed.sampler)


@pytest.mark.parametrize(
    ("node", "name"),
    [({"name": SPREAD}, SPREAD), ({"name": "tests.decoding.lockstep.poison:Poison", "at": 5}, None), ("vcd", "vcd")],
)
def test_another_process_can_build_a_serialized_strategy(node: Any, name: str | None) -> None:
    """A strategy of a file is named by its path, since its module name exists in this process only."""
    parsed = parse_arm(node)
    sent = json.loads(serialize(parsed.strategy, parsed.sampler))
    assert sent[0]["name"] == (name or node["name"])
    assert deserialize(json.dumps(sent)) == (parsed.strategy, parsed.sampler)


def test_the_metadata_of_a_branch_survives_serialization() -> None:
    branch = BranchMetadata("g", 1, 3, "[]", seed=7, query="qä", trace=True, first=(1, 2), force=(4,))
    assert parse_branch(branch.extra_args()) == branch
    assert parse_branch({}) is None
    assert parse_branch({"other": 1}) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not the JSON"),
        ("[1]", "is a mapping of"),
        ('{"group": "g", "index": 0, "count": 2}', "is a mapping of"),
        ('{"group": "g", "index": 0, "arm": "[]"}', "is a mapping of"),
        ('{"group": "g", "count": 2, "arm": "[]"}', "is a mapping of"),
        ('{"index": 0, "count": 2, "arm": "[]"}', "is a mapping of"),
        ('{"group": "g", "index": 0, "count": 2, "arm": "[]", "color": 1}', "is a mapping of"),
        ('{"group": "g", "index": 2, "count": 2, "arm": "[]"}', "branch 2 of 2"),
        ('{"group": "g", "index": -1, "count": 2, "arm": "[]"}', "branch -1 of 2"),
        ('{"group": "g", "index": 0, "count": 0, "arm": "[]"}', "1 to 16"),
        ('{"group": "g", "index": 0, "count": 17, "arm": "[]"}', "1 to 16"),
    ],
)
def test_a_malformed_branch_is_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_branch({METADATA_KEY: text})


def test_only_a_running_server_names_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = BranchMetadata("s3cret-1", 0, 2, "[]"), BranchMetadata("1-s3cret", 0, 2, "[]")
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    check_group_name(own), check_group_name(other)
    monkeypatch.setenv(SECRET_VARIABLE, "s3cret")
    check_group_name(own)
    with pytest.raises(ValueError, match="groups are named by the server"):
        check_group_name(other)


def test_a_strategy_that_does_not_survive_serialization_is_refused() -> None:
    growing = parse_arm({"name": f"{Path(__file__).with_name('faulty.py')}:Growing"})
    with pytest.raises(PlanError, match="Growing is not equal to the strategy that its parameters build"):
        serialize(growing.strategy, growing.sampler)


def test_a_strategy_class_inside_a_function_is_refused() -> None:
    @dataclass(frozen=True)
    class Mine(Strategy):
        """Of this function."""

    with pytest.raises(PlanError, match="Mine is defined in a notebook, a script or a function"):
        serialize(Mine(), Greedy())


def test_a_custom_sampler_is_refused() -> None:
    class Mine:
        deterministic = True

        def choose(self, scores: torch.Tensor, keys: Any, step: int) -> torch.Tensor:
            return scores.argmax(-1)

    with pytest.raises(PlanError, match="Mine cannot be sent"):
        serialize(parse_arm("vcd").strategy, Mine())


FLAT_ARMS = (
    "vcd",
    {"name": "vcd", "sampling": {"temperature": 1.0}},
    "m3id",
    "code",
    "cad",
    {"name": "random_gate", "of": "dcd"},
    {"name": "gaussian_proxy", "of": "vcd"},
)


class Operations(TorchDispatchMode):
    """A counter of the operations that PyTorch dispatches.

    Attributes:
        count: Operations without draws.
        draws: Random draws on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.draws = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert str(func) not in ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default")
        is_draw = str(func).startswith("aten.normal_")
        self.draws, self.count = self.draws + is_draw, self.count + (not is_draw)
        return func(*args, **(kwargs or {}))


def groups_at(arm: Any, num_steps: int, prefix: str, count: int = 64) -> list[list[BatchRow]]:
    """Groups of two branches that stand at `num_steps` different steps, one behind the other in the batch."""
    branches = branch_count(parse_arm(arm).strategy)
    made = [
        rows(f"{prefix}-{g}", arm, [branches * g + b for b in range(branches)], g % num_steps, trace=True)
        for g in range(count)
    ]
    return complete_groups([row for group in made for row in group])


@pytest.mark.parametrize("arm", FLAT_ARMS, ids=str)
def test_the_operations_of_a_step_do_not_depend_on_how_many_steps_the_groups_stand_at(arm: Any) -> None:
    """And no value is read from the device while the step runs."""
    counts = []
    for num_steps in (1, 8, 64):
        groups = groups_at(arm, num_steps, f"{arm}{num_steps}")
        batch = logits(64 * len(groups[0]), seed=num_steps)
        with Operations() as operations:
            select_tokens(batch, groups)
        counts.append(operations.count)
    assert max(counts) <= counts[0] + 2, counts  # weights of the steps become a tensor
    assert max(counts) <= 100, counts
    assert operations.draws == (64 if arm == FLAT_ARMS[-1] else 0)
    RECORD_STORE.settle(wait=True)


@pytest.mark.parametrize("arm", [*FLAT_ARMS, {"name": "nbce"}, {"name": SPREAD}], ids=str)
def test_groups_at_different_steps_choose_and_record_what_each_does_alone(arm: Any) -> None:
    """The last strategy computes with the number of the step, as a stranger's may."""
    count = branch_count(parse_arm(arm).strategy)
    steps = [0, 3, 1, 1, 7]
    parts = [
        rows(f"{arm}-{g}", arm, [count * g + b for b in range(count)], step, trace=True) for g, step in enumerate(steps)
    ]
    together, alone = logits(count * len(steps)), logits(count * len(steps))
    select_tokens(together, complete_groups([row for part in parts for row in part]))
    traces = [(RECORD_STORE.take(part[0].branch.group) or GroupRecord()).trace for part in parts]
    assert all(traces)
    for part, trace in zip(parts, traces, strict=True):
        RECORD_STORE.taken.clear()
        select_tokens(alone, complete_groups(part))
        assert (RECORD_STORE.take(part[0].branch.group) or GroupRecord()).trace == trace
    assert torch.equal(together, alone)


def test_nothing_is_read_from_a_device_while_a_step_runs() -> None:
    """On the device `meta`, which has no values, any read is an error. `nbce` has a state, and `top` step traces."""
    for arm in (*FLAT_ARMS, "nbce", {"name": "vcd", "sampling": {"temperature": 1.0, "top_p": 0.9, "min_p": 0.1}}):
        places = list(range(branch_count(parse_arm(arm).strategy)))
        for groups in (
            groups_at(arm, 3, f"meta {arm}", count=4),
            complete_groups(rows(f"steps {arm}", arm, places, 1, trace=True, top=2)),
            complete_groups(rows(f"options {arm}", arm, places, 1, first=(3, 4), force=(5, 6))),
        ):
            select_tokens(torch.empty(4 * len(places), VOCABULARY, device="meta"), groups)
            RECORD_STORE.deferred.clear()
    assert not RECORD_STORE.faulty


@pytest.mark.parametrize("arm", ["greedy", {"name": "vcd", "sampling": {"temperature": 1.0}}], ids=str)
def test_a_thinking_budget_waits_for_the_step_before_only(arm: Any) -> None:
    limits, group = ThinkingLimits(max_thinking_tokens=3, max_new_tokens=2, stop_tokens=(0,)), f"budget {arm}"
    places = list(range(branch_count(parse_arm(arm).strategy)))
    chosen, event = [OPENING, 5, 6], Event()
    for step, token in enumerate(chosen):
        batch = torch.empty(len(places), VOCABULARY, device="meta")
        branches = rows(group, arm, places, step, trace=True, thinking=limits)
        select_tokens(batch, complete_groups(branches), WordTokenizer)
        ((values, _, write),) = RECORD_STORE.deferred
        assert values.device.type == "meta"
        assert event.is_reached is (step > 0)
        event = Event()
        RECORD_STORE.deferred[0] = torch.tensor([[*[0.0] * (values.shape[1] - 1), float(token)]]), event, write
    final = logits(len(places))
    select_tokens(final, complete_groups(rows(group, arm, places, 3, trace=True, thinking=limits)), WordTokenizer)
    assert final.argmax(-1).tolist() == [CLOSING] * len(places)
    RECORD_STORE.take(group)


def test_a_step_that_ran_when_its_group_ended_leaves_no_record() -> None:
    select_tokens(logits(2), complete_groups(rows("late", "vcd", [0, 1], 0, trace=True)))
    select_tokens(logits(2), complete_groups(rows("late", "vcd", [0, 1], 1, trace=True)))
    record = RECORD_STORE.take("late")
    assert record is not None
    assert len(record.trace) == 2
    select_tokens(logits(2), complete_groups(rows("late", "vcd", [0, 1], 2, trace=True)))
    assert RECORD_STORE.take("late") is None
    select_tokens(logits(2), complete_groups(rows("late", "vcd", [0, 1], 0, trace=True)))  # the name is used again
    assert RECORD_STORE.take("late") is not None


class Event:
    """A CUDA event that is reached when the host waits for it."""

    def __init__(self) -> None:
        self.is_reached = False

    def query(self) -> bool:
        return self.is_reached

    def synchronize(self) -> None:
        self.is_reached = True


def test_values_on_their_way_from_the_device_are_written_in_order_once_they_arrive() -> None:
    store, events, written = RecordStore(), [Event(), Event()], list[list[list[float]]]()
    for i, event in enumerate(events):
        store.deferred.append((torch.tensor([[float(i)]]), event, written.append))
    store.settle(wait=False)
    assert written == []
    events[1].is_reached = True
    store.settle(wait=False)
    assert written == []  # the step before has not arrived
    store.settle(wait=True)
    assert written == [[[0.0]], [[1.0]]]
    assert all(event.is_reached for event in events)


def test_the_store_remembers_as_many_taken_groups_as_records() -> None:
    store = RecordStore(max_groups=2)
    for group in ("a", "b", "c"):
        store.take(group)
    for group in ("a", "b", "c"):
        store.of(group).forced.append(-1.0)
    assert list(store.records) == ["a"]
    assert list(store.taken) == ["b", "c"]


def test_equal_arms_have_one_text() -> None:
    """Groups are combined together by the text of their arm."""
    text = serialize(*deserialize(serialize(M3ID(first_step=0, decay=0.5), Greedy())))
    strategy = json.loads(text)[0]
    assert list(strategy) == sorted(strategy)
