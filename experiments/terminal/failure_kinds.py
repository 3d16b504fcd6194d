"""Failures of one kind: reasons that differ only in names, numbers and paths."""

import re
from dataclasses import dataclass, field

VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S+\.\w{2,4}\b|\d[\d,.]*")
"""Quoted names, paths, file names and numbers."""


def failure_kind(reason: str) -> str:
    """The reason without names, numbers and paths."""
    return VARYING.sub("…", reason)


@dataclass
class FailureKind:
    """The failures of one kind. sample, reason: of the first failure."""

    sample: str
    reason: str
    count: int = 0

    def describe(self) -> str:
        return f"failed       {self.count:,} samples, first {self.sample}: {self.reason.rstrip('.')}."


@dataclass
class FailureKinds:
    """A counter of failures by kind, in the order in which the kinds appear."""

    kinds: dict[str, FailureKind] = field(default_factory=dict)

    def add(self, sample: str, reason: str) -> bool:
        """Counts a failure. Returns whether it is the first one of its kind."""
        kind = self.kinds.setdefault(failure_kind(reason), FailureKind(sample, reason))
        kind.count += 1
        return kind.count == 1
