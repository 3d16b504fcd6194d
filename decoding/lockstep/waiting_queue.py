"""A waiting queue whose scan can be ended: what stands behind a request that has no room waits unread."""

from vllm.v1.core.sched.request_queue import FCFSRequestQueue
from vllm.v1.request import Request


class ClosableQueue(FCFSRequestQueue):  # type: ignore[misc]
    """First come, first served. While it is closed it looks empty to a scan, and is not."""

    closed = False

    def __bool__(self) -> bool:
        return len(self) > 0 and not self.closed

    def ends_with(self, requests: list[Request]) -> bool:
        """Whether these stand at its end, in this order."""
        return len(self) >= len(requests) and all(
            self[i - len(requests)] is request for i, request in enumerate(requests)
        )
