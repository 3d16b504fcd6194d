"""Strategies over HTTP: one chat request becomes a group of requests inside the server, and one answer.

An ASGI middleware in front of vLLM's own application (`--middleware`). It reads chat requests, answers those that name
a strategy, and passes everything else on as it came; a strategy that is named elsewhere is refused, since nothing would
read it. Groups are named here; a client that names one itself is refused. A client that hangs up takes its whole group
with it. An adapter that vLLM cannot put on whole stops the server before it listens. A server that stops tells whoever
still waits.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from decoding.arms.inspection import branch_count
from decoding.lockstep.request_metadata import GROUP_NAME_REFUSED, MAX_BRANCHES, SECRET_VARIABLE, BranchMetadata
from decoding.lockstep.serialization import serialize
from decoding.server import http
from decoding.server.extended_responses import answered
from decoding.server.http import HTTPError, TrackedSend
from decoding.server.loading import LOADING
from decoding.server.placement import Placement
from decoding.server.request_parsing import StrategyRequest, names_group, names_strategy, parse_request
from decoding.server.shutdown import STOPPING_MESSAGE, GracefulShutdown
from decoding.server.strategy_server import StrategyServer
from icl import __version__
from icl.errors import ICLError
from icl.models import icl_server as served
from icl.registry import entries

PATH = "/v1/chat/completions"
ASKED = f"/v1{served.PATH}"
"""Where a client learns what this server is."""

ONLY = f"vllm_xargs.strategy is read at POST {PATH} alone, and icl beside it: this would be answered without."
NOT_JSON = "the body is JSON, and the request does not say so: it needs Content-Type: application/json."
NO_KEY = "the key is missing, or is another one (Authorization: Bearer)."

Piece = dict[str, Any]
"""New text; how it ended, or None; tokens read and new so far; ids of the new ones, where they are wanted."""


class StrategyMiddleware:
    """vLLM makes one with the application that it wraps."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.numbers = itertools.count()
        self.shutdown = GracefulShutdown()
        self.desk: StrategyServer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._starting(scope, receive, send)
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not http.may_enter(scope["app"].state.args, scope):
            await TrackedSend(send).refuse(HTTPError(401, NO_KEY))
        elif scope["method"] == "POST":
            await self._posted(scope, receive, TrackedSend(send))
        elif (scope["method"], http.path_of(scope)) == ("GET", ASKED):
            await self._told(scope, send)
        else:
            await self.app(scope, receive, send)

    async def _starting(self, scope: Any, receive: Any, send: Any) -> None:
        """The application's life, from before it listens."""
        message = await receive()
        if problem := await self._desk(scope).lost():
            await send({"type": "lifespan.startup.failed", "message": problem})
            _ = asyncio.get_running_loop().create_task(_exit())
            return
        LOADING.stop()
        state = scope["app"].state
        self.shutdown.install(state.server, state.engine_client)
        await self.app(scope, http.again(message, receive), send)

    def _desk(self, scope: Any) -> StrategyServer:
        if self.desk is None:
            self.desk = StrategyServer(scope["app"].state)
        return self.desk

    async def _told(self, scope: Any, send: Any) -> None:
        told = {
            "server": served.WHO,
            "version": __version__,
            "branches": MAX_BRANCHES,
            "strategies": list(entries("strategy")),
        }
        await http.answer(send, 200, told | {"adapters": self._desk(scope).adapters})

    async def _posted(self, scope: Any, receive: Any, reply: TrackedSend) -> None:
        try:
            raw = await http.body(receive)
            with self.shutdown.active_request():
                await self._read(scope, raw, receive, reply)
        except HTTPError as refused:
            await reply.refuse(refused)

    async def _read(self, scope: Any, raw: bytes, receive: Any, reply: TrackedSend) -> None:
        """Answers a request with a strategy, and passes any other on. Raises HTTPError."""
        body = http.parsed(raw)
        if names_group(body):
            raise HTTPError(400, GROUP_NAME_REFUSED)
        if not names_strategy(body):
            if isinstance(body, dict) and body.get("icl") is not None:
                raise HTTPError(400, ONLY)
            await self.app(scope, http.again(http.request(raw), receive), reply)
            return
        if http.path_of(scope) != PATH:
            raise HTTPError(400, ONLY)
        if not http.is_json(scope):
            raise HTTPError(415, NOT_JSON)
        work = asyncio.ensure_future(self._serve(self._desk(scope), body, reply))
        gone, over = asyncio.ensure_future(http.gone(receive)), asyncio.ensure_future(self.shutdown.closing.wait())
        try:
            await asyncio.wait({work, gone, over}, return_when=asyncio.FIRST_COMPLETED)
            waits = not work.done() and not gone.done()
        finally:
            for task in (work, gone, over):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        if waits:
            raise HTTPError(503, STOPPING_MESSAGE)

    async def _serve(self, desk: StrategyServer, body: Any, reply: TrackedSend) -> None:
        try:
            asked = await asyncio.to_thread(parse_request, body)
            adapter = desk.adapter(asked.model)
            branches = branch_count(asked.arm.strategy) if desk.seats.several else 1
            with desk.seats.taken(branches, adapter) as seat:
                await self._answer(desk, asked, seat, reply)
        except ICLError as error:
            await reply.refuse(HTTPError(400, str(error)))
        except HTTPError as refused:
            await reply.refuse(refused)

    async def _answer(self, desk: StrategyServer, asked: StrategyRequest, seat: Placement, send: Any) -> None:
        head = {"id": f"chatcmpl-{next(self.numbers)}", "created": int(time.time()), "model": asked.model or desk.name}
        if asked.more is not None:
            content = await answered(desk, asked, self._name(), seat)
            await http.answer(send, 200, head | {"object": "chat.completion"} | content)
            return
        async with contextlib.aclosing(self._said(desk, asked, seat)) as pieces:
            told = http.chained(await anext(pieces), pieces)  # what is refused has a status of its own
            if asked.stream:
                await http.stream(send, head, told, asked.stream_usage)
            else:
                await http.whole(send, head, told)

    def _name(self) -> str:
        """Of a group."""
        return f"{os.environ.get(SECRET_VARIABLE, '')}-{os.getpid()}-{next(self.numbers)}"

    async def _said(self, desk: StrategyServer, asked: StrategyRequest, seat: Placement) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. The branches run as long as this is read."""
        branches = await desk.branches(asked, seat)
        given = [await desk.inputs.of_async(branch) for branch in branches]
        group = self._name()
        told, key = serialize(asked.arm.strategy, asked.arm.sampler), asked.prompt.key
        said: asyncio.Queue[Any] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(
                desk.read(made, asked, BranchMetadata(group, b, len(branches), told, key.seed, key.query), said, seat)
            )
            for b, made in enumerate(given)
        ]
        for task in tasks:
            task.add_done_callback(lambda ended: said.put_nowait(None if ended.cancelled() else ended.exception()))
        text, read = "", sum(len(made["prompt_token_ids"]) for made in given)
        try:
            while True:
                output = await said.get()
                if output is None:  # a branch has ended
                    if said.empty() and all(task.done() for task in tasks):
                        raise ended("without an answer", None)
                    continue
                if isinstance(output, BaseException):
                    raise output
                one = output.outputs[0]
                failed = one.finish_reason not in (None, "stop", "length")
                if (failed or output.finished) and (fault := await desk.fault(group)):
                    raise HTTPError(400, fault)
                if failed:
                    raise ended(one.finish_reason, one.stop_reason)
                yield {
                    "text": one.text[len(text) :],
                    "finish": one.finish_reason,
                    "read": read,
                    "new": len(one.token_ids),
                    "ids": list(one.token_ids) if asked.token_ids else None,
                }
                if output.finished:
                    return
                text = one.text
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def ended(how: str, reason: Any) -> HTTPError:
    """Why a group has no whole answer. What an engine says against a group it says again the next time."""
    if how == "abort":
        return HTTPError(503, "the engine ended the request: it is stopping, or was told to.")
    return HTTPError(400, str(reason)) if reason else HTTPError(500, f"the request ended: {how}.")


async def _exit() -> None:
    """Out of the server's loop, which ends the engines, with a status that says that it failed."""
    raise SystemExit(1)
