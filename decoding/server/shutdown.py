"""The end of a server: who still waits for an answer is told, and nobody is waited for without end.

vLLM stops the engine first (`--shutdown-timeout` lets it finish what it has), then closes connections as its clients
close them: one that has sent half a request, or waits for an answer that no engine will give, would keep it for ever.
"""

import asyncio
from typing import Any

from decoding.server.http import HTTPError

LOOKS = 0.1
"""Seconds between two looks at whether the server stops."""

CLOSING = 5
"""Seconds that connections have to close once the engine has stopped."""


class ShutdownWatch:
    """over: set as soon as the engine has stopped and the server closes."""

    told = HTTPError(503, "the server is stopping, and this request was not finished. Ask again when it is back.")

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.watching: asyncio.Task[None] | None = None

    def watch(self, server: Any) -> None:
        """server: uvicorn's."""
        server.config.timeout_graceful_shutdown = CLOSING
        self.watching = asyncio.ensure_future(self._watch(server))

    async def _watch(self, server: Any) -> None:
        while not server.should_exit:
            await asyncio.sleep(LOOKS)
        self.over.set()
