"""Threads of the runner: one makes the next window of prompts, one records answers, while the model answers.

    windows     window 1    window 2      window 3
    model                 | answer 1    | answer 2    | answer 3
    recorder                 | record 1    | record 2    | record 3

Only models that allow it (`icl.models.base.Model.enable_threads`) are used this way, and only if no retriever, orderer
or transform calls the model. The order of work within each thread is that of a run without threads.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

SWITCH_SECONDS = 0.0005
"""Time that a thread of Python code keeps the interpreter. Python's default of 5 ms would delay each operation of the
model by 5 ms, because every operation releases the interpreter."""

_END: Any = object()


def one_ahead(items: Iterator[T], thread: Executor) -> Iterator[T]:
    """Yields the items. Each is made in the thread while the caller works on the one before."""
    context = copy_context()

    def make() -> T:
        return context.run(lambda: next(items, _END))

    item = thread.submit(make)
    while (current := item.result()) is not _END:
        item = thread.submit(make)
        yield current


class BackgroundCalls:
    """A thread that makes calls in order. An exception is raised by the next `submit` or `wait`; no call follows it."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self.calls: deque[Future[None]] = deque()
        self.has_failed = False

    def submit(self, call: Callable[..., None], *arguments: Any) -> None:
        """Makes a call after all earlier ones."""
        while self.calls and self.calls[0].done():
            self.calls.popleft().result()
        self.calls.append(self.thread.submit(copy_context().run, self._call, call, *arguments))

    def wait(self) -> None:
        """Returns when all calls are made."""
        while self.calls:
            self.calls.popleft().result()

    def close(self) -> None:
        """Waits for the calls and ends the thread."""
        self.thread.shutdown()

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        if self.has_failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self.has_failed = True
            raise


@contextmanager
def short_switches() -> Iterator[None]:
    """Lowers the interpreter's switch interval to `SWITCH_SECONDS` in the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
