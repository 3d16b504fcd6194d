"""What a step leaves behind for those who asked: traces, log-probabilities of options, faults.

One for each process, written by the logits processor. The scheduler reads faults from it where it shares the process;
an engine's front end fetches the rest with `worker.LockstepWorkerExtension`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from decoding.engine.trace import StepTrace

MOST_GROUPS = 100_000
"""Groups whose numbers wait to be fetched; beyond that the oldest are forgotten."""


@dataclass
class GroupRecord:
    """Of one group. Lists have one entry a step.

    trace: numbers of the step. looks: what each branch said, where that is asked for. first: log-probabilities of the
    tokens asked for at step 0. forced: of the option's own tokens. faults: step -> why the step could not be
    taken. memory: what the strategy kept, by step.
    """

    trace: list[list[float]] = field(default_factory=list)
    step_traces: list[StepTrace] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)


class RecordStore:
    """name of a group -> its record."""

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self.most = most
        self.records: OrderedDict[str, GroupRecord] = OrderedDict()
        self.faulty: set[str] = set()

    def of(self, group: str) -> GroupRecord:
        if group not in self.records:
            self.records[group] = GroupRecord()
            while len(self.records) > self.most:
                old, _ = self.records.popitem(last=False)
                self.faulty.discard(old)
        return self.records[group]

    def fault(self, group: str, step: int, reason: str) -> None:
        self.of(group).faults[step] = reason
        self.faulty.add(group)

    def clear_fault(self, group: str, step: int) -> None:
        """A step is computed again where a prompt was read in chunks: the last time counts."""
        if group in self.faulty:
            faults = self.records[group].faults
            faults.pop(step, "")
            if not faults:
                self.faulty.discard(group)

    def reason(self, group: str) -> str | None:
        if group not in self.faulty:
            return None
        return next(iter(self.records[group].faults.values()))

    def take(self, group: str) -> GroupRecord | None:
        self.faulty.discard(group)
        return self.records.pop(group, None)


RECORD_STORE = RecordStore()


Value = TypeVar("Value")


def put(values: list[Value], step: int, value: Value) -> None:
    """values[step] = value, where steps come one after the other, some of them twice."""
    del values[step:]
    values.append(value)
