"""The largest batch that fits into memory, remembered for a run.

    a batch of s fails      its parts are at most s / 2; no batch of s or more is tried again
    4 full batches fit      the limit grows by a quarter, below the smallest batch that failed

Results do not depend on the limit, so it is no part of any digest.
"""

from dataclasses import dataclass, field

GROWTH, FULL_BATCHES = 1.25, 4
"""A limit grows by this factor after so many full batches. A batch is full if the limit before its growth was less."""


@dataclass
class BatchLimit:
    """The largest size of a batch, in the unit of its user: padded tokens, or items.

    Attributes:
        budget: The size at the beginning, which is never exceeded.
        now: The largest size that is tried.
        failed: The smallest size that ran out of memory.
        full_batches: Full batches that fit since the limit last changed.
    """

    budget: int
    now: int = field(init=False)
    failed: float = field(init=False, default=float("inf"))
    full_batches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.now = self.budget

    def fits(self, size: int) -> bool:
        """Whether a batch of this size may be formed."""
        return size <= self.now

    def record_fit(self, size: int) -> None:
        """A batch of this size fitted."""
        self.full_batches += size > self.now / GROWTH
        if self.full_batches >= FULL_BATCHES:
            self.full_batches = 0
            grown = min(self.budget, int(self.now * GROWTH))
            if grown < self.failed:
                self.now = grown

    def record_failure(self, size: int) -> None:
        """A batch of this size ran out of memory."""
        self.failed = min(self.failed, size)
        self.now, self.full_batches = max(1, min(self.now, size // 2)), 0

    def forget_since(self, before: "BatchLimit") -> None:
        """Back to an earlier state of this limit. A single item that fails says nothing about batches."""
        vars(self).update(vars(before))
