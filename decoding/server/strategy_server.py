"""A server's engine as strategies need it: prompts rendered, branches made, requests started."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import cached_property
from threading import Event, Thread
from typing import Any, TypeVar

from decoding.base import Note, Strategy
from decoding.lockstep.request_metadata import MAX_BRANCHES, BranchMetadata
from decoding.server.http import HTTPError
from decoding.server.placement import EngineBalancer, Placement
from decoding.server.request_parsing import StrategyRequest
from icl.errors import DataError, did_you_mean
from icl.models.hf.model import HF
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, output_from_vllm
from icl.models.vllm.inputs import InputBuilder
from icl.types import Prompt

Value = TypeVar("Value")

PIXELS = 2**28
"""Of all images of a request together: what memory has room for when they are opened."""


async def _in_own_thread(function: Callable[[], Value]) -> Value:
    """The result of a function that may block for long, run outside of the event loop's thread pool."""
    future: Future[Value] = Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - raised again where the future is awaited
            future.set_exception(error)
        else:
            future.set_result(value)

    Thread(target=work, name="prepare", daemon=True).start()
    return await asyncio.wrap_future(future)


class StrategyServer:
    """What a server needs to answer with strategies; made once. server: the state of vLLM's application."""

    def __init__(self, server: Any) -> None:
        self.engine, self.args, self.models = server.engine_client, server.args, server.openai_serving_models
        parallel = server.vllm_config.parallel_config
        self.seats = EngineBalancer(int(parallel.data_parallel_size))
        self.apart = parallel.distributed_executor_backend != "uni"  # workers whose faults a scheduler cannot see
        self.hf = HF(self.args.model, trust_remote_code=self.args.trust_remote_code, revision=self.args.revision)
        self.numbers = itertools.count()

    @cached_property
    def inputs(self) -> InputBuilder:
        return InputBuilder(self.hf, self.engine)

    @property
    def adapters(self) -> list[str]:
        """The names that clients ask for them by."""
        return list(self.models.lora_requests)

    @property
    def name(self) -> str:
        """That clients call the base by."""
        return str(self.models.base_model_paths[0].name)

    def adapter(self, name: str) -> Any:
        """vLLM's request for the adapter that a client names as its model, None for the base. Raises RefusedError."""
        if name in self.models.lora_requests:
            return self.models.lora_requests[name]
        if name and not self.models.is_base_model(name):
            known = [*(base.name for base in self.models.base_model_paths), *self.adapters]
            raise HTTPError(
                404, f"there is no model '{name}' here.{did_you_mean(name, known)} It serves {', '.join(known)}."
            )
        return None

    async def lost(self) -> str:
        """The sentence for an adapter of which vLLM would leave something out, or ''."""
        for name, adapter in self.models.lora_requests.items():
            found: list[list[str]] = await self.engine.collective_rpc(
                "lockstep_unsupported_layers", args=(adapter.lora_int_id,)
            )
            if found[0]:
                return (
                    f"--adapter {name}: vLLM has no place for {len(found[0])} of the layers that {adapter.lora_path} "
                    f"changes, such as {found[0][0]}, and would leave them out. Use --merge."
                )
        return ""

    async def branches(self, asked: StrategyRequest, seat: Placement) -> Sequence[Prompt]:
        """The strategy's branches; what it generates first is asked of this server's own model."""
        await asyncio.to_thread(self._check_images, asked.prompt)
        note = await self._prepare(asked, seat)
        found = await asyncio.to_thread(asked.arm.strategy.branches, asked.prompt, note)
        if len(found) > MAX_BRANCHES:
            raise HTTPError(
                400, f"{asked.arm.label} reads {len(found)} prompts, and a group has {MAX_BRANCHES} at most."
            )
        return found

    async def _prepare(self, asked: StrategyRequest, seat: Placement) -> Note:
        """The note of the strategy's `prepare`, which runs in a thread of its own.

        `prepare` blocks its thread while the model generates, and rendering a prompt to generate from takes threads of
        the event loop's pool. If `prepare` ran in that pool, as many requests as it has threads would block it forever.
        """
        strategy = asked.arm.strategy
        if type(strategy).prepare is Strategy.prepare:
            return None
        loop, hung_up = asyncio.get_running_loop(), Event()
        generations: list[Future[list[str]]] = []

        def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
            if hung_up.is_set():
                raise CancelledError
            generations.append(asyncio.run_coroutine_threadsafe(self._generated(prompts, max_new_tokens, seat), loop))
            return generations[-1].result()

        try:
            notes = await _in_own_thread(lambda: strategy.prepare([asked.prompt], generate))
        finally:
            hung_up.set()
            for future in generations:
                future.cancel()
        return notes[0]

    def _check_images(self, prompt: Prompt) -> None:
        """Raises DataError where the images are more than there is room for, before one is decoded."""
        images = [*prompt.images, *(prompt.paired_prompt.images if prompt.paired_prompt is not None else ())]
        pixels = sum(width * height for width, height in (image.size for image in images))
        if pixels > PIXELS:
            raise DataError(
                f"the images of the request have {pixels:,} pixels together, and a server opens {PIXELS:,} at most. "
                "Send smaller ones."
            )

    async def _generated(self, prompts: Sequence[Prompt], length: int, seat: Placement) -> list[str]:
        async def one(prompt: Prompt) -> str:
            given, name = await self.inputs.of_async(prompt), f"icl-first-{next(self.numbers)}"
            tokens: list[int] = []
            async for output in self._outputs(given, self._parameters(length, (), None), name, seat):
                tokens = list(output.outputs[0].token_ids)
            return self.hf.text(tokens)

        return list(await asyncio.gather(*map(one, prompts)))

    async def _outputs(self, given: Any, parameters: Any, name: str, seat: Placement) -> AsyncIterator[Any]:
        """What the engine says, one after the other. Raises RefusedError."""
        from vllm.exceptions import VLLMError, VLLMServerError

        try:
            async for output in self.engine.generate(given, parameters, name, **seat.arguments()):
                yield output
        except VLLMServerError as error:
            raise HTTPError(503, f"the engine has failed: {error}") from error
        except (VLLMError, ValueError) as error:
            raise HTTPError(400, f"vLLM does not take this prompt: {error}") from error

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together that the engine has room for."""
        return int(self.engine.model_config.max_model_len)

    async def whole(self, given: Any, ask: EngineRequest, name: str, seat: Placement) -> EngineOutput:
        """What one prompt of a group says in the end. Raises RefusedError where the engine does not take it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=ask.max_new_tokens,
            stop_token_ids=sorted(self.hf.stop_tokens) if ask.stops else [],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=dict(ask.extra) or None,
        )
        last = None
        async for output in self._outputs(given, parameters, name, seat):
            last = output
        return EngineOutput(reason="it ended without an answer") if last is None else output_from_vllm(last)

    async def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What the workers kept of these groups; it is forgotten there."""
        ask = self.engine.engine_core.call_utility_all_async
        try:
            found: list[list[dict[str, Any]]] = await ask(
                "collective_rpc", "lockstep_take_records", None, (list(groups),), {}
            )
        except Exception as error:  # vLLM has no kind of its own for what an engine says that is stopping
            raise HTTPError(503, f"the engine does not tell what it kept: {error}.") from error
        return {name: record for engine in found for name, record in engine[0].items()}

    async def fault(self, group: str) -> str:
        """Why a step of this group could not be taken, where its scheduler cannot know; else ''."""
        if not self.apart:
            return ""
        return str((await self.take_records([group])).get(group, {}).get("fault", ""))

    async def read(
        self, given: Any, asked: StrategyRequest, branch: BranchMetadata, said: "asyncio.Queue[Any]", seat: Placement
    ) -> None:
        """Runs one branch to its end. What branch 0 says goes into `said`. Raises RefusedError."""
        room = self.longest - len(given["prompt_token_ids"])
        limit = min(asked.max_tokens or room, room)
        stop = asked.stop if branch.index == 0 else ()
        name = f"icl-{next(self.numbers)}-{branch.index}"
        async for output in self._outputs(given, self._parameters(limit, stop, branch), name, seat):
            if branch.index == 0:
                said.put_nowait(output)

    def _parameters(self, limit: int, stop: tuple[str, ...], branch: BranchMetadata | None) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0,
            max_tokens=max(limit, 1),
            stop=list(stop),
            stop_token_ids=sorted(self.hf.stop_tokens),
            ignore_eos=True,
            extra_args=branch.extra_args() if branch else None,
        )
