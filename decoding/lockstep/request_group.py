"""A group as the scheduler sees it: its requests, whether they may run, and how it ended."""

import time
from dataclasses import dataclass, field
from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import Request, RequestStatus

logger = init_logger(__name__)

REGULAR_ENDS = frozenset({RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED})


@dataclass(eq=False)
class RequestGroup:
    """The requests of one group: one for each branch of a strategy.

    Attributes:
        name: Unique name of the group.
        size: Number of branches.
        created: Time at which the first branch arrived, by the monotonic clock.
        members: Index of a branch -> its request.
        is_admitted: Whether slots and blocks are reserved for all branches, so that they may leave the waiting queue.
        last_sampled: Number of the step in which the group sampled last.
        final_status: How the group ends, None while it goes on. It is set once.
        reason: Message for the user if the group fails.
    """

    name: str
    size: int
    created: float = field(default_factory=time.monotonic)
    members: dict[int, Any] = field(default_factory=dict)
    is_admitted: bool = False
    last_sampled: int = 0
    final_status: RequestStatus | None = None
    reason: str | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.members) == self.size

    @property
    def requests(self) -> list[Request]:
        return [self.members[i] for i in sorted(self.members)]

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if request.status == RequestStatus.RUNNING]

    @property
    def can_sample(self) -> bool:
        """Whether each branch runs and lacks only the token whose logits it samples from."""
        return self.final_status is None and all(
            r.status == RequestStatus.RUNNING and lacks_one_token(r) for r in self.members.values()
        )

    def end(self, status: RequestStatus, reason: str | None = None) -> None:
        if self.final_status is None:
            self.final_status, self.reason = status, reason
            if reason:
                logger.warning("lockstep group %s ends: %s", self.name, reason)

    def fail(self, reason: str) -> None:
        self.end(RequestStatus.FINISHED_ERROR, reason)

    def check_end(self, missing_branch_timeout_s: float) -> None:
        """Ends the group if one branch has ended, or if a branch is missing after the timeout.

        If one branch has stopped or reached its length limit, the others end with the same status. After any other end,
        such as an abort, they end as aborted, without a reason. If a branch is missing, the others end with an error.
        """
        status = next((r.status for r in self.members.values() if r.is_finished()), None)
        if status is not None:
            self.end(status if status in REGULAR_ENDS else RequestStatus.FINISHED_ABORTED)
        elif not self.is_complete and time.monotonic() - self.created > missing_branch_timeout_s:
            arrived = f"{len(self.members)} of {self.size} branches arrived within {missing_branch_timeout_s:g} s"
            self.fail(f"{arrived}: {sorted(self.members)}")


def lacks_one_token(request: Request) -> bool:
    """Whether all tokens of a request but the last are computed. The logits of the last give the next token."""
    return scheduled_length(request) - int(request.num_computed_tokens) == 1


def scheduled_length(request: Request) -> int:
    """Number of tokens of a request, including those that a step in flight is about to sample."""
    return int(request.num_tokens + request.num_output_placeholders)
