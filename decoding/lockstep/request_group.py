"""A group as the scheduler sees it: its requests, whether they may run, and how it ended."""

import time
from dataclasses import dataclass, field
from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import Request, RequestStatus

logger = init_logger(__name__)

SHARED_ENDS = frozenset({RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED})


@dataclass(eq=False)
class RequestGroup:
    """The requests of one group.

    admitted: its branches may leave the waiting queue and have room set aside; not all need have left yet.
    turn: the step at which it chose last. verdict: how it ends, set once. reason: why, for a person.
    """

    name: str
    size: int
    born: float = field(default_factory=time.monotonic)
    members: dict[int, Any] = field(default_factory=dict)
    admitted: bool = False
    turn: int = 0
    verdict: RequestStatus | None = None
    reason: str | None = None

    @property
    def complete(self) -> bool:
        return len(self.members) == self.size

    @property
    def requests(self) -> list[Request]:
        return [self.members[i] for i in sorted(self.members)]

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if request.status == RequestStatus.RUNNING]

    @property
    def ready(self) -> bool:
        """Whether what each branch computes next is the token that it chooses from."""
        return self.verdict is None and all(
            r.status == RequestStatus.RUNNING and lacks_one(r) for r in self.members.values()
        )

    def end(self, verdict: RequestStatus, reason: str | None = None) -> None:
        if self.verdict is None:
            self.verdict, self.reason = verdict, reason
            if reason:
                logger.warning("lockstep group %s ends: %s", self.name, reason)

    def fail(self, reason: str) -> None:
        self.end(RequestStatus.FINISHED_ERROR, reason)

    def judge(self, patience: float) -> None:
        """Ends it where one of its branches has ended, or never came."""
        ended = next((r.status for r in self.members.values() if r.is_finished()), None)
        if ended is not None:
            self.end(ended if ended in SHARED_ENDS else RequestStatus.FINISHED_ABORTED)
        elif not self.complete and time.monotonic() - self.born > patience:
            came = f"{len(self.members)} of {self.size} branches came within {patience:g} s"
            self.fail(f"{came}: {sorted(self.members)}")


def lacks_one(request: Request) -> bool:
    """Whether the next token of a request that is computed is the one that it chooses from."""
    return bool(request.num_tokens - request.num_computed_tokens == 1)
