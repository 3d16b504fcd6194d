"""A waiting queue whose scan can be stopped, so that requests behind one that does not fit are not examined."""

from vllm.v1.core.sched.request_queue import FCFSRequestQueue
from vllm.v1.request import Request


class StoppableQueue(FCFSRequestQueue):  # type: ignore[misc]
    """First-come-first-served queue. While `is_scan_stopped` is set it looks empty to vLLM's scan."""

    is_scan_stopped = False

    def __bool__(self) -> bool:
        return len(self) > 0 and not self.is_scan_stopped

    def ends_with(self, requests: list[Request]) -> bool:
        """Whether the queue ends with these requests, in this order."""
        return len(self) >= len(requests) and all(
            self[i - len(requests)] is request for i, request in enumerate(requests)
        )
