"""The order in which a server stops: requests from their arrival, then the engine, then connections."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from decoding.server.http import HTTPError
from decoding.server.serving import CLOSE_SECONDS, POLL_SECONDS, GracefulShutdown


async def answer_slowly(graceful: GracefulShutdown, seconds: float, events: list[str]) -> None:
    with graceful.active_request():
        await asyncio.sleep(seconds)
        events.append("answered")


def test_requests_that_have_arrived_are_finished_and_new_ones_are_refused() -> None:
    async def scenario() -> list[str]:
        graceful, events = GracefulShutdown(), list[str]()
        requests = [asyncio.ensure_future(answer_slowly(graceful, 0.05 * i, events)) for i in (1, 2)]
        await asyncio.sleep(0)
        drain = asyncio.ensure_future(graceful.drain(30))
        await asyncio.sleep(0)
        with pytest.raises(HTTPError, match="the server is stopping") as refusal, graceful.active_request():
            pass
        assert refusal.value.status == 503
        await drain
        events.append("drained")
        await asyncio.gather(*requests)
        return events

    assert asyncio.run(scenario()) == ["answered", "answered", "drained"]


@pytest.mark.parametrize("request_seconds", [0.0, 60.0])
def test_a_drain_ends_when_nothing_is_active_or_the_time_is_over(request_seconds: float) -> None:
    async def scenario() -> float:
        graceful = GracefulShutdown()
        request = asyncio.ensure_future(answer_slowly(graceful, request_seconds, []))
        await asyncio.sleep(0.01)
        start = time.monotonic()
        await graceful.drain(0.2)
        request.cancel()
        return time.monotonic() - start

    assert asyncio.run(scenario()) < (0.1 if not request_seconds else 5)


class StubEngine:
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.timeouts: list[float | None] = []

    def shutdown(self, timeout: float | None = None) -> None:
        self.events.append("engine stopped")
        self.timeouts.append(timeout)


def uvicorn_server() -> Any:
    return SimpleNamespace(should_exit=False, config=SimpleNamespace(timeout_graceful_shutdown=None))


def test_the_engine_is_stopped_after_the_last_answer_within_the_same_time_limit() -> None:
    events: list[str] = []
    engine, server = StubEngine(events), uvicorn_server()

    async def scenario() -> None:
        graceful = GracefulShutdown()
        graceful.install(server, engine)
        request = asyncio.ensure_future(answer_slowly(graceful, 0.1, events))
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.shutdown, timeout=30)
        await request
        assert not graceful.closing.is_set()
        server.should_exit = True
        await asyncio.wait_for(graceful.closing.wait(), 10 * POLL_SECONDS)

    asyncio.run(scenario())
    assert events == ["answered", "engine stopped"]
    assert engine.timeouts[0] == pytest.approx(29.9, abs=1)
    assert server.config.timeout_graceful_shutdown == CLOSE_SECONDS


def test_an_engine_whose_requests_used_up_the_time_limit_is_stopped_at_once() -> None:
    events: list[str] = []
    engine = StubEngine(events)

    async def scenario() -> None:
        graceful = GracefulShutdown()
        graceful.install(uvicorn_server(), engine)
        request = asyncio.ensure_future(answer_slowly(graceful, 60, events))
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.shutdown, timeout=0.05)
        request.cancel()

    asyncio.run(scenario())
    assert engine.timeouts == [0.0]


@pytest.mark.parametrize("timeout", [0, None])
def test_without_a_time_limit_the_engine_is_stopped_at_once(timeout: float | None) -> None:
    events: list[str] = []
    engine = StubEngine(events)

    async def scenario() -> None:
        graceful = GracefulShutdown()
        graceful.install(uvicorn_server(), engine)
        request = asyncio.ensure_future(answer_slowly(graceful, 60, events))
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.shutdown, timeout=timeout)
        request.cancel()

    asyncio.run(scenario())
    assert (events, engine.timeouts) == (["engine stopped"], [timeout])


def test_a_closed_server_stops_its_engine_without_waiting_for_itself() -> None:
    """After the HTTP server has closed, vLLM calls `shutdown` in the event loop's own thread."""
    events: list[str] = []
    engine = StubEngine(events)

    async def scenario() -> None:
        graceful = GracefulShutdown()
        graceful.install(uvicorn_server(), engine)
        with graceful.active_request():
            engine.shutdown(timeout=30)

    asyncio.run(scenario())
    assert events == ["engine stopped"]
