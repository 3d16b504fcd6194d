"""Strategies over HTTP: one chat request becomes a group of requests inside the server, and one answer.

An ASGI middleware in front of vLLM's own application (`--middleware`). It reads chat requests, answers those that name
a strategy, and passes everything else on as it came. Groups are named here; a client that names one itself is refused.
A client that hangs up takes its whole group with it. An adapter that vLLM cannot put on whole stops the server before
it listens.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from decoding.lockstep import http, wire
from decoding.lockstep.answering import answered
from decoding.lockstep.branch import MOST, NAMED, SECRET, Branch
from decoding.lockstep.desk import Desk
from decoding.lockstep.http import RefusedError
from decoding.lockstep.seats import Seat
from decoding.lockstep.wanted import Wanted, names_a_group, strategy_asked, wanted
from decoding.probe import branch_count
from icl import __version__
from icl.errors import ICLError
from icl.models import served
from icl.registry import entries

PATH = "/v1/chat/completions"
ASKED = f"/v1{served.PATH}"
"""Where a client learns what this server is."""

Piece = dict[str, Any]
"""New text; how it ended, or None; why; tokens read and new so far; ids of the new ones, where they are wanted."""


class StrategyMiddleware:
    """vLLM makes one with the application that it wraps."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.numbers = itertools.count()
        self.desk: Desk | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._starting(scope, receive, send)
            return
        own = {("POST", PATH): self._chat, ("GET", ASKED): self._told}
        handler = own.get((scope.get("method"), scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self.app(scope, receive, send)
        else:
            await http.authenticated(scope["app"].state.args, handler)(scope, receive, send)

    async def _starting(self, scope: Any, receive: Any, send: Any) -> None:
        """The application's life, from before it listens."""
        message = await receive()
        if problem := await self._desk(scope).lost():
            await send({"type": "lifespan.startup.failed", "message": problem})
            _ = asyncio.get_running_loop().create_task(_exit())
            return
        await self.app(scope, http.again(message, receive), send)

    def _desk(self, scope: Any) -> Desk:
        if self.desk is None:
            self.desk = Desk(scope["app"].state)
        return self.desk

    async def _told(self, scope: Any, receive: Any, send: Any) -> None:
        told = {"server": served.WHO, "version": __version__, "branches": MOST, "strategies": list(entries("strategy"))}
        await http.answer(send, 200, told | {"adapters": self._desk(scope).adapters})

    async def _chat(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            raw = await http.body(receive)
        except RefusedError as refused:
            await http.answer(send, refused.status, http.error(str(refused), refused.status))
            return
        body = http.parsed(raw) if b"vllm_xargs" in raw else None
        if names_a_group(body):  # vLLM would refuse it too, but with its pictures noted as seen already
            await http.answer(send, 400, http.error(NAMED, 400))
            return
        if not strategy_asked(body):
            await self.app(scope, http.again(http.request(raw), receive), send)
            return
        work = asyncio.ensure_future(self._serve(self._desk(scope), body, send))
        gone = asyncio.ensure_future(http.gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _serve(self, desk: Desk, body: Any, send: Any) -> None:
        try:
            asked = wanted(body)
            adapter = desk.adapter(asked.model)
            branches = branch_count(asked.arm.strategy) if desk.seats.several else 1
            with desk.seats.taken(branches, adapter) as seat:
                await self._answer(desk, asked, seat, send)
        except ICLError as error:
            await http.answer(send, 400, http.error(str(error), 400))
        except RefusedError as refused:
            await http.answer(send, refused.status, http.error(str(refused), refused.status))

    async def _answer(self, desk: Desk, asked: Wanted, seat: Seat, send: Any) -> None:
        head = {"id": f"chatcmpl-{next(self.numbers)}", "created": int(time.time()), "model": asked.model}
        if asked.more is not None:
            content = await answered(desk, asked, self._name(), seat)
            await http.answer(send, 200, head | {"object": "chat.completion"} | content)
            return
        async with contextlib.aclosing(self._said(desk, asked, seat)) as pieces:
            first = await anext(pieces)
            if first["finish"] not in (None, "stop", "length"):
                raise RefusedError(500, first["reason"] or f"the request ended: {first['finish']}")
            told = http.chained(first, pieces)
            if asked.stream:
                await http.stream(send, head, told, asked.stream_usage)
            else:
                await http.whole(send, head, told)

    def _name(self) -> str:
        """Of a group."""
        return f"{os.environ.get(SECRET, '')}-{os.getpid()}-{next(self.numbers)}"

    async def _said(self, desk: Desk, asked: Wanted, seat: Seat) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. The branches run as long as this is read."""
        branches = await desk.branches(asked, seat)
        if len(branches) > MOST:
            raise RefusedError(400, f"{asked.arm.label} reads {len(branches)} prompts, and a group has {MOST} at most.")
        given = [await desk.inputs.of_async(branch) for branch in branches]
        group = self._name()
        told, key = wire.told(asked.arm.strategy, asked.arm.sampler), asked.prompt.key
        said: asyncio.Queue[Any] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(
                desk.read(made, asked, Branch(group, b, len(branches), told, key.seed, key.query), said, seat)
            )
            for b, made in enumerate(given)
        ]
        text, read = "", sum(len(made["prompt_token_ids"]) for made in given)
        try:
            while True:
                output = await said.get()
                if isinstance(output, Exception):
                    raise RefusedError(400, str(output)) from output
                one = output.outputs[0]
                reason = str(one.stop_reason or "") if one.finish_reason == "error" else ""
                yield {
                    "text": one.text[len(text) :],
                    "finish": one.finish_reason,
                    "reason": reason,
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


async def _exit() -> None:
    """Out of the server's loop, which ends the engines, with a status that says that it failed."""
    raise SystemExit(1)
