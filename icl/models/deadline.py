"""A time for a whole exchange with a server.

httpx counts the time between two bytes alone, and a server may send one now and then: of a body, of a header that never
ends, of one "100 Continue" after the other. So every read, write and connection is given what is left of its thread's
time, by the network backend that httpcore has as an extension point.
"""

import time
from ssl import SSLContext
from threading import local
from typing import Any

import httpcore
import httpx


class Clock(local):
    """When the exchange of a thread ends."""

    end = float("inf")

    def left(self, timeout: float | None) -> float:
        """Seconds for what comes next. Raises ReadTimeout."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the answer is not whole")
        return left if timeout is None else min(left, timeout)


class Timed(httpx.HTTPTransport):
    """httpx's own transport, by a clock."""

    def __init__(self, clock: Clock, limits: httpx.Limits) -> None:
        super().__init__(limits=limits)
        self._pool._network_backend = _Network(self._pool._network_backend, clock)


class _Network(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        left = self.clock.left(timeout)
        return _Stream(self.inner.connect_tcp(host, port, left, local_address, socket_options), self.clock)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        return _Stream(self.inner.connect_unix_socket(path, self.clock.left(timeout), socket_options), self.clock)

    def sleep(self, seconds: float) -> None:
        self.inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, self.clock.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.clock.left(timeout))

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self.inner.start_tls(ssl_context, server_hostname, self.clock.left(timeout)), self.clock)

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)
