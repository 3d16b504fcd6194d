"""An HTTP client whose requests end by a deadline, however slowly the server sends.

The timeouts of httpx count the time between two bytes. A server that sends one byte a second, in the body, in an
endless header or as one "100 Continue" after the other, would never exceed them. So requests run in an event loop,
where a deadline can cancel any of their phases.
"""

import asyncio
from collections.abc import Mapping
from threading import Thread
from typing import Any

import httpx

MAX_RESPONSE_BYTES = 64 * 2**20
"""Size limit of a decompressed response body."""

GRACE_SECONDS = 0.1
"""Added to the deadline, so that a timeout of httpx comes first where one applies: it names the phase."""


class ResponseTooLargeError(Exception):
    """The body of a response exceeds `MAX_RESPONSE_BYTES`."""


class DeadlineClient:
    """HTTP client for many threads, with a connection pool and an event loop in a thread of its own."""

    def __init__(self, headers: Mapping[str, str], connections: int) -> None:
        """
        Args:
            headers: Sent with every request.
            connections: Maximum number of simultaneous connections.
        """
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(headers=headers, limits=limits)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()

    def request(self, method: str, url: str, seconds: float, body: bytes | None = None) -> httpx.Response:
        """Send a request and read the whole response.

        Args:
            method: HTTP method.
            url: Address.
            seconds: Time limit for the whole exchange.
            body: JSON to send.

        Returns:
            The response with its decompressed body and the headers Retry-After and Location.

        Raises:
            httpx.RequestError: No connection, no complete response in time, or an invalid one.
            httpx.InvalidURL: The address is malformed.
            ResponseTooLargeError: The body is too large.
        """
        return asyncio.run_coroutine_threadsafe(self._request(method, url, seconds, body), self._loop).result()

    def close(self) -> None:
        """Cancel pending requests, close the connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _request(self, method: str, url: str, seconds: float, body: bytes | None) -> httpx.Response:
        options: dict[str, Any] = {"timeout": seconds}
        if body is not None:
            options |= {"content": body, "headers": {"Content-Type": "application/json"}}
        content = bytearray()
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS), self._client.stream(method, url, **options) as answer:
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise ResponseTooLargeError(f"the answer has more than {MAX_RESPONSE_BYTES // 2**20} MiB")
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer is not complete") from error
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() in (b"retry-after", b"location")]
        return httpx.Response(answer.status_code, headers=headers, content=bytes(content))

    async def _shut_down(self) -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._client.aclose()
