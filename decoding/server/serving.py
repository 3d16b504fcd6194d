"""Strategies over HTTP: one chat request becomes a group of requests inside the server, and gets one answer.

This is an ASGI middleware in front of vLLM's own application (`--middleware`):

- It answers chat requests that name a strategy, or a model that stands for one, and passes every other request on
  unchanged.
- It refuses a strategy on any other path, where vLLM would ignore it, and group names that a client sends.
- If a client hangs up, its whole group ends. When the server stops, requests that still wait get a 503.
- An adapter that vLLM cannot apply completely stops the server before it listens.
"""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from decoding import DecodingRequest, Failure, PreparedRequest, branch_count
from decoding.lockstep import build_answer, build_groups, empty_output, read_tokens, thinking_limits
from decoding.lockstep.request_metadata import (
    GROUP_NAME_REFUSED,
    MAX_BRANCHES,
    SECRET_VARIABLE,
    BranchMetadata,
    ThinkingLimits,
    serialize,
)
from decoding.server import CONFIG_KEY, LOADING, HTTPError, Placement, StrategyServer, TrackedSend, http
from decoding.server.request_parsing import (
    ExtendedOptions,
    StrategyRequest,
    extension_without_strategy,
    names_group,
    names_strategy,
    parse_request,
    with_strategy_of_model,
)
from icl import ConfigError, ICLError, __version__, entries
from icl.models import icl_server
from icl.models.hf import HF, argument_names
from icl.models.vllm.engine_io import EngineOutput

CHAT_PATH = "/v1/chat/completions"
INFO_PATH = f"/v1{icl_server.PATH}"
"""Path that describes the server to clients."""

WRONG_PATH_MESSAGE = f"{{}} works only at POST {CHAT_PATH}. Here it would be ignored."
NO_STRATEGY_MESSAGE = (
    "{} works only together with vllm_xargs.strategy, such as greedy. Without a strategy it would be ignored."
)
NOT_JSON_MESSAGE = "the request has no Content-Type: application/json, although its body is JSON."
NO_KEY_MESSAGE = "the API key is missing or wrong (Authorization: Bearer)."

Piece = dict[str, Any]
"""A piece of an answer: new text, finish reason, numbers of prompt tokens and new tokens so far, token ids or None."""


class StrategyMiddleware:
    """The middleware. vLLM creates one for its application."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.numbers = itertools.count()
        self.shutdown = GracefulShutdown()
        self.strategy_server: StrategyServer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not http.is_authorized(scope["app"].state.args, scope):
            await TrackedSend(send).send_error(HTTPError(401, NO_KEY_MESSAGE))
        elif scope["method"] == "POST":
            await self._on_post(scope, receive, TrackedSend(send))
        elif (scope["method"], http.path_of(scope)) == ("GET", INFO_PATH):
            await self._send_info(scope, send)
        else:
            await self.app(scope, receive, send)

    async def _run_lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        """Runs checks before the application starts to listen, and then the application."""
        message = await receive()
        if problem := await self._server(scope).unsupported_layers_message():
            await send({"type": "lifespan.startup.failed", "message": problem})
            _ = asyncio.get_running_loop().create_task(_exit())
            return
        LOADING.stop()
        state = scope["app"].state
        self.shutdown.install(state.server, state.engine_client)
        await self.app(scope, http.prepend_message(message, receive), send)

    def _server(self, scope: Any) -> StrategyServer:
        if self.strategy_server is None:
            self.strategy_server = StrategyServer(scope["app"].state)
        return self.strategy_server

    def _strategy_models(self, scope: Any) -> Mapping[str, Any]:
        config = scope["app"].state.vllm_config.additional_config or {}
        nodes: Mapping[str, Any] = config.get(CONFIG_KEY, {})
        return nodes

    async def _send_info(self, scope: Any, send: Any) -> None:
        server = self._server(scope)
        info = {
            "server": icl_server.WHO,
            "version": __version__,
            "branches": MAX_BRANCHES,
            "strategies": list(entries("strategy")),
            "adapters": server.adapters,
            "template": await asyncio.to_thread(argument_names, server.hf.renderer),
            "strategy_models": list(self._strategy_models(scope)),
        }
        await http.send_json(send, 200, info)

    async def _on_post(self, scope: Any, receive: Any, send: TrackedSend) -> None:
        try:
            raw = await http.read_body(receive)
            with self.shutdown.active_request():
                await self._dispatch(scope, raw, receive, send)
        except HTTPError as error:
            await send.send_error(error)

    async def _dispatch(self, scope: Any, raw: bytes, receive: Any, send: TrackedSend) -> None:
        """Answers a request with a strategy, and passes any other on. Raises HTTPError."""
        body = http.parse_json(raw)
        if names_group(body):
            raise HTTPError(400, GROUP_NAME_REFUSED)
        by_model = not names_strategy(body)
        try:
            body = with_strategy_of_model(body, self._strategy_models(scope))
        except ConfigError as error:
            raise HTTPError(400, str(error)) from error
        if not names_strategy(body):
            if extension := extension_without_strategy(body):
                raise HTTPError(400, NO_STRATEGY_MESSAGE.format(extension))
            await self.app(scope, http.prepend_message(http.body_message(raw), receive), send)
            return
        if http.path_of(scope) != CHAT_PATH:
            what = f"the strategy of the model '{body['model']}'" if by_model else "vllm_xargs.strategy"
            raise HTTPError(400, WRONG_PATH_MESSAGE.format(what))
        if not http.is_json(scope):
            raise HTTPError(415, NOT_JSON_MESSAGE)
        answer = asyncio.ensure_future(self._serve(self._server(scope), body, send))
        disconnect = asyncio.ensure_future(http.wait_for_disconnect(receive))
        closing = asyncio.ensure_future(self.shutdown.closing.wait())
        try:
            await asyncio.wait({answer, disconnect, closing}, return_when=asyncio.FIRST_COMPLETED)
            still_waits = not answer.done() and not disconnect.done()
        finally:
            for task in (answer, disconnect, closing):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answer
        if still_waits:
            raise HTTPError(503, STOPPING_MESSAGE)

    async def _serve(self, server: StrategyServer, body: Any, send: TrackedSend) -> None:
        try:
            request = await asyncio.to_thread(parse_request, body)
            adapter = server.adapter(request.model)
            branches = branch_count(request.arm.strategy) if server.balancer.has_several else 1
            with server.balancer.place(branches, adapter) as placement:
                await self._answer(server, request, placement, send)
        except ICLError as error:
            await send.send_error(HTTPError(400, str(error)))
        except HTTPError as error:
            await send.send_error(error)

    async def _answer(self, server: StrategyServer, request: StrategyRequest, placement: Placement, send: Any) -> None:
        model = request.model or server.model_name
        head = {"id": f"chatcmpl-{next(self.numbers)}", "created": int(time.time()), "model": model}
        if request.extended is not None:
            content = await extended_response(server, request, self._group_name(), placement)
            await http.send_json(send, 200, head | {"object": "chat.completion"} | content)
            return
        async with contextlib.aclosing(self._pieces(server, request, placement)) as pieces:
            # The first piece is awaited before anything is sent, so that an error gets a status of its own.
            all_pieces = http.chain(await anext(pieces), pieces)
            if request.stream:
                await http.send_stream(send, head, all_pieces, request.stream_usage)
            else:
                await http.send_completion(send, head, all_pieces)

    def _group_name(self) -> str:
        return f"{os.environ.get(SECRET_VARIABLE, '')}-{os.getpid()}-{next(self.numbers)}"

    async def _pieces(
        self, server: StrategyServer, request: StrategyRequest, placement: Placement
    ) -> AsyncGenerator[Piece, None]:
        """The answer in pieces. The branches run until this generator is closed."""
        branches, note = await server.branches(request, placement)
        builder = await asyncio.to_thread(server.inputs_for, request)
        inputs = [await builder.of_async(branch) for branch in branches]
        group = self._group_name()
        arm_text, key = serialize(request.arm.strategy, request.arm.sampler), request.prompt.key
        max_new_tokens = request.max_tokens or server.max_model_len
        limits = await asyncio.to_thread(
            thinking_limits, request.max_thinking_tokens, max_new_tokens, branches[0], builder.hf
        )
        outputs: asyncio.Queue[Any] = asyncio.Queue()  # outputs of branch 0; an exception or None when a branch ends
        tasks = []
        for b, branch_input in enumerate(inputs):
            metadata = BranchMetadata(
                group, b, len(branches), arm_text, key.seed, key.query, thinking=limits, note=note
            )
            run = server.run_branch(branch_input, request, metadata, outputs, placement)
            tasks.append(asyncio.ensure_future(run))
        for task in tasks:
            task.add_done_callback(lambda done: outputs.put_nowait(None if done.cancelled() else done.exception()))
        text, prompt_tokens = "", sum(len(branch_input["prompt_token_ids"]) for branch_input in inputs)
        try:
            while True:
                output = await outputs.get()
                if output is None:
                    if outputs.empty() and all(task.done() for task in tasks):
                        raise ended_error("without an answer", None)
                    continue
                if isinstance(output, BaseException):
                    raise output
                completion = output.outputs[0]
                failed = completion.finish_reason not in (None, "stop", "length")
                if (failed or output.finished) and (fault := await server.fault(group)):
                    raise HTTPError(400, fault)
                if failed:
                    raise ended_error(completion.finish_reason, completion.stop_reason)
                ids, finish = list(completion.token_ids), completion.finish_reason
                if limits is not None and output.finished:
                    ids, finish = budgeted_end(ids, finish, limits, builder.hf)
                yield {
                    "text": completion.text[len(text) :],
                    "finish": finish,
                    "prompt_tokens": prompt_tokens,
                    "new_tokens": len(ids),
                    "ids": ids if request.token_ids else None,
                }
                if output.finished:
                    return
                text = completion.text
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def budgeted_end(tokens: list[int], finish: str, limits: ThinkingLimits, renderer: HF) -> tuple[list[int], str]:
    """Tokens and finish reason of an answer under a thinking budget, without the token that ended it at its limit.

    Raises:
        HTTPError: The engine did not apply the budget.
    """
    answer = empty_output(limits, renderer.tokenizer)
    if problem := read_tokens(answer, tokens, limits.stop_tokens):
        raise HTTPError(400, f"{problem}.")
    return tokens[: answer.steps], answer.finish or finish


def ended_error(finish: str, reason: Any) -> HTTPError:
    """The error for a group without a complete answer.

    A 400 if the engine gives a reason, since the same request would fail again.
    """
    if finish == "abort":
        return HTTPError(503, "the engine ended the request, because it is stopping or the request was aborted.")
    return HTTPError(400, str(reason)) if reason else HTTPError(500, f"the request ended: {finish}.")


async def _exit() -> None:
    """Leaves the server's event loop with a failure status, which also ends the engines."""
    raise SystemExit(1)


async def extended_response(
    server: StrategyServer, request: StrategyRequest, name: str, placement: Placement
) -> dict[str, Any]:
    """The fields of a chat completion with the key `icl`: the answer with its tokens, traces and option scores.

    The model `remote` sends such requests, and so gets what the model `vllm` gives.

    Args:
        server: The server.
        request: The request.
        name: Prefix of the names of its groups.
        placement: Adapter and engine of the request.

    Raises:
        ICLError: The request cannot be decoded.
        HTTPError: The engine refuses or fails.
    """
    extended = request.extended or ExtendedOptions()
    made, note = await server.branches(request, placement)
    branches, builder = tuple(made), await asyncio.to_thread(server.inputs_for, request)
    if extended.options:
        branches = await asyncio.to_thread(
            lambda: tuple(builder.hf.before_answer(branch, extended.reasoning) for branch in made)
        )
    inputs = [await builder.of_async(branch) for branch in branches]
    lengths = tuple(len(branch_input["prompt_token_ids"]) for branch_input in inputs)
    room = max(server.max_model_len - max(lengths), 1)
    limit = min(request.max_tokens or room, room)
    answer_mode: Any = "options" if extended.options else "generate"
    arm = request.arm if extended.normalize is None else replace(request.arm, normalize=extended.normalize)
    decoding = DecodingRequest(
        request.prompt,
        arm,
        extended.options,
        answer_mode,
        limit,
        extended.top,
        max_thinking_tokens=request.max_thinking_tokens,
    )
    prepared = PreparedRequest(decoding, branches, ("",) * len(branches), lengths, note)
    groups = await asyncio.to_thread(build_groups, prepared, builder.hf, name, extended.trace)
    tasks = [
        asyncio.ensure_future(server.run_request(branch_input, engine_request, f"{group.name or name}-{b}", placement))
        for group in groups
        for b, (branch_input, engine_request) in enumerate(zip(inputs, group.requests, strict=False))
    ]
    try:
        outputs = list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if any(output.finish == "abort" for output in outputs):
        raise ended_error("abort", None)
    records = await server.take_records([group.name for group in groups if group.name])
    remaining = iter(outputs)
    group_outputs = [(group, [next(remaining) for _ in group.requests]) for group in groups]
    answer = build_answer(prepared, builder.hf, group_outputs, records)
    if isinstance(answer, Failure):
        raise HTTPError(400, answer.reason)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": answer.finish,
        "icl": asdict(answer),
    }
    return {"choices": [choice], "usage": _usage(outputs, answer.usage.new_tokens)}


def _usage(outputs: list[EngineOutput], new_tokens: int) -> dict[str, Any]:
    """Counts of prompt tokens of all branches, of the cached ones among them, and of answer tokens."""
    prompt_tokens = sum(output.prompt_tokens for output in outputs)
    cached_tokens = sum(output.cached_tokens for output in outputs)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


# Graceful shutdown of a server: requests in flight are answered first, and no connection can delay the exit forever.
#
# On SIGTERM, vLLM stops its renderer and its engine at once. Only requests that the engine has received are finished.
# A request would be lost while its images are read or its strategy generates a description. The class below therefore
# counts requests from their arrival and delays the engine's shutdown until they are answered:
#
#     SIGTERM ──> refuse new requests (503) ──> wait until no request is active,   ──> stop the engine ──> close
#                                               at most `--shutdown-timeout`           connections


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
