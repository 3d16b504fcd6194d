"""Graceful shutdown of a server: requests in flight are answered first, and no connection can delay the exit forever.

On SIGTERM, vLLM stops its renderer and its engine at once. Only requests that the engine has received are finished.
A request would be lost while its images are read or its strategy generates a description. This module therefore counts
requests from their arrival and delays the engine's shutdown until they are answered:

    SIGTERM ──> refuse new requests (503) ──> wait until no request is active,   ──> stop the engine ──> close
                                              at most `--shutdown-timeout`           connections
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from decoding.server.http import HTTPError

POLL_SECONDS = 0.1
"""Seconds between two checks of whether the HTTP server closes."""

CLOSE_SECONDS = 5
"""Seconds that connections have to close after the engine has stopped."""

STOPPING_MESSAGE = "the server is stopping. Send the request again when the server is back."


class GracefulShutdown:
    """Counter of active requests, and the order in which a server stops.

    Attributes:
        is_draining: Whether the server refuses new requests.
        closing: Event that is set as soon as the engine has stopped; whoever still waits then gets no answer.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self.closing = asyncio.Event()
        self._active = 0
        self._idle = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    def install(self, server: Any, engine: Any) -> None:
        """Puts the drain in front of the engine's shutdown. Called inside the server's event loop.

        Args:
            server: The uvicorn server.
            engine: vLLM's engine client. vLLM calls its `shutdown` on SIGTERM.
        """
        server.config.timeout_graceful_shutdown = CLOSE_SECONDS
        self._watcher = asyncio.ensure_future(self._watch(server))
        loop, loop_thread, stop_engine = asyncio.get_running_loop(), threading.get_ident(), engine.shutdown

        def drain_and_stop(timeout: float | None = None) -> None:
            # On SIGTERM vLLM calls this in a thread. In the loop's own thread it calls it after the server has closed.
            started = time.monotonic()
            if timeout and threading.get_ident() != loop_thread:
                asyncio.run_coroutine_threadsafe(self.drain(timeout), loop).result()
                timeout = max(timeout - (time.monotonic() - started), 0.0)
            stop_engine(timeout=timeout)

        engine.shutdown = drain_and_stop

    @contextmanager
    def active_request(self) -> Iterator[None]:
        """Counts a request for as long as the block runs. Raises HTTPError (503) while the server drains."""
        if self.is_draining:
            raise HTTPError(503, STOPPING_MESSAGE)
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def drain(self, timeout: float) -> None:
        """Refuses new requests, and returns when no request is active or `timeout` seconds have passed."""
        self.is_draining = True
        if not self._active:
            return
        self._idle.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)

    async def _watch(self, server: Any) -> None:
        while not server.should_exit:
            await asyncio.sleep(POLL_SECONDS)
        self.is_draining = True
        self.closing.set()
