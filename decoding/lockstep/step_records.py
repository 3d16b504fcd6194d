"""Records of decoding steps: traces, log-probabilities of options, faults.

Each process has one store, which the logits processor writes. The scheduler reads faults from it if it runs in the same
process. An engine's front end fetches the rest through `LockstepWorkerExtension`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from decoding.engine import Hypothesis, StepTrace, Thinking, append_token
from icl.text.reasoning_blocks import opened_block

if TYPE_CHECKING:
    from decoding.lockstep.request_metadata import ThinkingLimits

# The thinking budget inside an engine, with the state machine of the token loop (`decoding.engine.thinking_budget`).
#
# A worker reads the chosen tokens of such a group one step later, when they have arrived on the host, and so waits
# for no step that still runs. It puts the end marker of a reasoning block in their place, and a stop token after the
# last token of the answer. The front end reads the output in the same way. So a token that is not the forced one is
# noticed, and the surplus stop token is removed.
#
# vLLM's own `thinking_token_budget` cannot give the same outputs: its markers belong to the engine, and reasoning and
# answer share one length limit.


TokenizerLoader = Callable[[], Any]
"""Returns the `transformers` tokenizer of the model."""

NOT_FORCED = "the engine did not force the end marker of a reasoning block at its thinking budget"
STOPPED_IN_MARKER = (
    "the end marker of its reasoning block contains a stop token, at which vLLM ends the answer. Remove "
    "max_thinking_tokens, or use the model 'hf'"
)


@dataclass
class BudgetedOutput:
    """The output of one group under a thinking budget, as a worker follows it.

    Attributes:
        chosen: The token of each step.
        hypothesis: The state after `chosen`, None before the first step.
    """

    chosen: list[int] = field(default_factory=list)
    hypothesis: Hypothesis | None = None

    def demand(self, step: int, limits: "ThinkingLimits", load_tokenizer: TokenizerLoader) -> tuple[int, bool] | None:
        """The token that the budget demands at a step, and whether it belongs to an end marker. None: any token.

        It follows from the tokens before the step. A step may be computed again. The state is then computed again too.

        Args:
            step: Number of the step.
            limits: The budget.
            load_tokenizer: Called before the first step.
        """
        if len(self.chosen) < step:  # the record was dropped: the front end notices it
            return None
        del self.chosen[step:]
        if self.hypothesis is None or self.hypothesis.steps != step:
            self.hypothesis = empty_output(limits, load_tokenizer())
            read_tokens(self.hypothesis, self.chosen, limits.stop_tokens)
        thinking = self.hypothesis.thinking
        if thinking is not None and thinking.forced:
            return thinking.forced[0], True
        return (limits.stop_tokens[0], False) if self.hypothesis.finish and limits.stop_tokens else None

    def read(self, step: int, token: int, limits: "ThinkingLimits") -> None:
        """Reads the token of a step, after `demand` for this step."""
        if self.hypothesis is None or self.hypothesis.steps != step:
            return
        is_forced = self.hypothesis.take_forced() is not None
        append_token(self.hypothesis, token, frozenset(limits.stop_tokens), is_forced=is_forced)
        self.chosen.append(token)


def empty_output(limits: "ThinkingLimits", tokenizer: Any) -> Hypothesis:
    """The output of a group before its first token."""
    own = limits.own_markers
    thinking = Thinking(tokenizer, limits.max_thinking_tokens, opened_block(limits.opening, own), own=own)
    return Hypothesis([], limits.max_new_tokens, thinking=thinking)


def read_tokens(hypothesis: Hypothesis, tokens: Sequence[int], stop_tokens: Sequence[int] | Set[int]) -> str:
    """Reads the tokens of an engine into a hypothesis, up to the end of the answer.

    Returns:
        Why they are not an output of its thinking budget, '' if they are.
    """
    stops = frozenset(stop_tokens)
    for token in tokens:
        if hypothesis.finish:
            break
        forced = hypothesis.take_forced()
        if forced not in (None, token):
            return NOT_FORCED
        append_token(hypothesis, token, stops, is_forced=forced is not None)
    return STOPPED_IN_MARKER if tokens and tokens[-1] in stops and not hypothesis.finish else ""


MAX_GROUPS = 100_000
"""Maximum number of groups with records to fetch. Beyond that the oldest records are dropped."""


@dataclass
class GroupRecord:
    """The record of one group.

    Attributes:
        trace: The numbers of each step (`decoding.engine.trace.trace_numbers`).
        step_traces: The tokens of each branch in each step, if they are requested.
        first: Log-probabilities of the requested tokens at step 0.
        forced: Log-probability of the option's token in each step.
        faults: Step -> reason why the strategy failed there.
        memory: State of the strategy, by step.
        output: The output so far, if there is a thinking budget.
    """

    trace: list[list[float]] = field(default_factory=list)
    step_traces: list[StepTrace] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    memory: dict[int, Any] = field(default_factory=dict)
    output: BudgetedOutput = field(default_factory=BudgetedOutput)


class RecordStore:
    """Mapping of group names to records, of limited size."""

    def __init__(self, max_groups: int = MAX_GROUPS) -> None:
        self.max_groups = max_groups
        self.records: OrderedDict[str, GroupRecord] = OrderedDict()
        self.faulty: set[str] = set()
        self.taken: OrderedDict[str, None] = OrderedDict()  # a step that runs when a group ends comes too late for it
        self.deferred: deque[tuple[Tensor, Any, Callable[[list[list[float]]], None]]] = deque()

    def defer(self, values: "Tensor", write: "Callable[[list[list[float]]], None]") -> None:
        """Calls `write` with the values [B, m] of a step once they have arrived. The device is not waited for."""
        event = None
        if values.device.type == "cuda":
            copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = copy.copy_(values, non_blocking=True)
            event = torch.cuda.current_stream().record_event()
        self.deferred.append((values, event, write))

    def settle(self, wait: bool) -> None:
        """Writes the steps whose values have arrived. wait: waits for all of them."""
        while self.deferred:
            values, event, write = self.deferred[0]
            if event is not None and wait:
                event.synchronize()
            elif event is not None and not event.query():
                return
            self.deferred.popleft()
            write(values.tolist())

    def of(self, group: str) -> GroupRecord:
        """The record of a group, a new one if there is none. If the group's was taken, the new one is not stored."""
        if group in self.taken:
            return GroupRecord()
        if group not in self.records:
            self.records[group] = GroupRecord()
            while len(self.records) > self.max_groups:
                oldest, _ = self.records.popitem(last=False)
                self.faulty.discard(oldest)
        return self.records[group]

    def fault(self, group: str, step: int, reason: str) -> None:
        self.of(group).faults[step] = reason
        if group in self.records:
            self.faulty.add(group)

    def clear_fault(self, group: str, step: int) -> None:
        """Removes the fault of a step. With chunked prefill a step is computed several times, and the last counts."""
        if group in self.faulty:
            faults = self.records[group].faults
            faults.pop(step, "")
            if not faults:
                self.faulty.discard(group)

    def reason(self, group: str) -> str | None:
        """The first fault of a group, or None."""
        self.settle(wait=False)
        if group not in self.faulty:
            return None
        return next(iter(self.records[group].faults.values()))

    def take(self, group: str) -> GroupRecord | None:
        """Removes the record of a group and returns it. What comes for the group afterwards is dropped."""
        self.settle(wait=True)
        self.faulty.discard(group)
        self.taken[group] = None
        while len(self.taken) > self.max_groups:
            self.taken.popitem(last=False)
        return self.records.pop(group, None)


RECORD_STORE = RecordStore()

Value = TypeVar("Value")


def set_step(values: list[Value], step: int, value: Value) -> None:
    """values[step] = value. Steps follow one another, but a step may be computed again: what comes after is dropped."""
    del values[step:]
    values.append(value)


class LockstepWorkerExtension:
    """Mixin of vLLM's worker (`worker_extension_cls`). Its methods are called with `collective_rpc`."""

    model_runner: Any

    def lockstep_unsupported_layers(self, number: int) -> list[str]:
        """Layers that an adapter changes and for which vLLM has no LoRA module."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(set(manager.get_adapter(number).loras) - set(manager.modules))

    def lockstep_take_records(self, groups: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Removes the records of these groups (None: of all) and returns them as plain values, by group."""
        RECORD_STORE.settle(wait=True)
        records = {}
        for group in list(RECORD_STORE.records) if groups is None else groups:
            record = RECORD_STORE.take(group)
            if record is not None:
                records[group] = {
                    "trace": record.trace,
                    "step_traces": [asdict(trace) for trace in record.step_traces],
                    "first": record.first,
                    "forced": record.forced,
                    "fault": next(iter(record.faults.values()), ""),
                }
        return records
